//! Embeds the dashboard's built files, `dashboard/dist/app`, packed where that is smaller. Without
//! them the gateway builds all the same, and says at `/` what is missing.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

fn main() -> io::Result<()> {
    // The folder is in git, empty, for cargo to watch.
    println!("cargo::rerun-if-changed=dashboard/dist");
    let root = Path::new("dashboard/dist/app");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR"))?);
    let mut files = Vec::new();
    if root.exists() {
        walk(root, &mut files)?;
    }
    files.sort();
    let mut table = String::from("vec![\n");
    for (index, file) in files.iter().enumerate() {
        let plain = fs::read(file)?;
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&plain)?;
        let packed = packed.finish()?;
        let path = file.strip_prefix(root).map_err(io::Error::other)?;
        let path = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect::<Vec<_>>()
            .join("/");
        let tag = format!("\"{}\"", &blake3::hash(&plain).to_hex()[..16]);
        fs::write(out.join(format!("{index}")), &plain)?;
        let gzip = if packed.len() < plain.len() * 9 / 10 {
            fs::write(out.join(format!("{index}.gz")), &packed)?;
            format!("Some({})", embedded(&format!("{index}.gz")))
        } else {
            "None".to_owned()
        };
        table.push_str(&format!(
            "Asset {{ path: {path:?}, tag: HeaderValue::from_static({tag:?}), plain: {}, gzip: \
             {gzip} }},\n",
            embedded(&index.to_string()),
        ));
    }
    table.push(']');
    fs::write(out.join("dashboard.rs"), table)
}

fn embedded(file: &str) -> String {
    format!("Bytes::from_static(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")))")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        match entry.file_type()? {
            kind if kind.is_dir() => walk(&entry.path(), files)?,
            kind if kind.is_file() && !hidden => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}
