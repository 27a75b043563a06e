//! Large files of a model outside of the heap: each is copied to a temporary file without a name,
//! and the copy is mapped. When memory is short, the system drops pages and reads them again when
//! they are needed. No other process can open the copy, so checked bytes stay as they are even if
//! the store's file changes.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use memmap2::Mmap;
use object_store::GetResultPayload;
use tokio::io::AsyncWriteExt;

/// Files of this size and more are mapped, bytes.
pub(crate) const LARGE: u64 = 4 << 20;

/// Copies an object to the folder for temporary files (`TMPDIR`), and maps the copy.
pub(crate) async fn copy(found: GetResultPayload) -> io::Result<Bytes> {
    let file = match found {
        GetResultPayload::File(from, _) => {
            tokio::task::spawn_blocking(move || copy_file(from)).await??
        }
        GetResultPayload::Stream(chunks) => copy_stream(chunks).await?,
    };
    map(&file)
}

fn copy_file(mut from: File) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    from.seek(SeekFrom::Start(0))?;
    io::copy(&mut from, &mut file)?;
    Ok(file)
}

async fn copy_stream(
    mut chunks: impl Stream<Item = object_store::Result<Bytes>> + Unpin,
) -> io::Result<File> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile()?);
    while let Some(chunk) = chunks.try_next().await? {
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(file.into_std().await)
}

#[expect(
    unsafe_code,
    reason = "memory that is a file's is only as constant as the file is"
)]
fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the file has no name and this process alone has it open, so no write changes it or
    // cuts it short.
    let mapped = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::{StreamExt, stream};
    use object_store::GetResultPayload;

    use super::*;

    #[tokio::test]
    async fn a_file_and_a_stream_are_mapped_as_they_were() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let mapped = copy(GetResultPayload::File(
            file.reopen().unwrap(),
            file.path().to_owned(),
        ))
        .await
        .unwrap();
        file.as_file().set_len(10).unwrap();
        assert_eq!(mapped, bytes, "whatever becomes of the file");

        let chunks: Vec<_> = bytes
            .chunks(999)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        assert_eq!(
            copy(GetResultPayload::Stream(stream::iter(chunks).boxed()))
                .await
                .unwrap(),
            bytes
        );
        let broken = stream::iter([
            Ok(Bytes::from_static(b"x")),
            Err(object_store::Error::NotImplemented {
                operation: "get".into(),
                implementer: "none".into(),
            }),
        ]);
        assert!(
            copy(GetResultPayload::Stream(broken.boxed()))
                .await
                .is_err()
        );
    }
}
