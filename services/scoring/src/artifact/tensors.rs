//! Tensors, read by name, type and shape and refused if one of them differs.

use std::{collections::BTreeMap, fmt, marker::PhantomData, ops::Deref};

use bytemuck::Pod;
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::ModelError;

/// A number that tensors are made of.
pub trait Element: Pod + Send + Sync {
    /// Its safetensors type.
    const DTYPE: Dtype;
    /// Its size, bytes.
    const SIZE: usize;
    /// From its little-endian bytes, [`Self::SIZE`] of them.
    fn read(bytes: &[u8]) -> Self;
    /// Appends its little-endian bytes.
    fn write(self, to: &mut Vec<u8>);
}

macro_rules! element {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            const SIZE: usize = size_of::<$type>();
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array)
            }
            fn write(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
element!(f32 => F32, f64 => F64, i64 => I64, i32 => I32, u32 => U32, u16 => U16, u8 => U8);

/// Numbers that stay in the bytes of their file: those of a mapped file take no memory of their
/// own.
#[derive(Clone)]
pub struct Kept<T> {
    /// Aligned for `T`, a whole number of them.
    bytes: Bytes,
    of: PhantomData<T>,
}

impl<T: Element> Deref for Kept<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // An empty slice need not be aligned, which `cast_slice` requires.
        if self.bytes.is_empty() {
            &[]
        } else {
            bytemuck::cast_slice(&self.bytes)
        }
    }
}

impl<T: Element> From<Vec<T>> for Kept<T> {
    fn from(numbers: Vec<T>) -> Self {
        struct Owned<T>(Vec<T>);
        impl<T: Pod> AsRef<[u8]> for Owned<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Self {
            bytes: Bytes::from_owner(Owned(numbers)),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("count", &(self.bytes.len() / size_of::<T>()))
            .finish()
    }
}

/// The tensors of a safetensors file.
#[derive(Debug)]
pub struct Tensors<'a> {
    file: &'a str,
    bytes: &'a Bytes,
    tensors: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn parse(file: &'a str, bytes: &'a Bytes) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| ModelError::damaged(file, e))?;
        Ok(Self {
            file,
            bytes,
            tensors,
        })
    }

    /// Shape of a tensor with `N` dimensions.
    ///
    /// # Errors
    /// [`ModelError::Part`] if it is missing or has another number of dimensions.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], ModelError> {
        let found = self.view(name)?.shape().to_vec();
        <[usize; N]>::try_from(found).map_err(|found| {
            ModelError::part(
                self.file,
                name,
                format!("has shape {found:?}; {N} dimensions are wanted"),
            )
        })
    }

    /// A tensor of type `T` and the given shape, row by row.
    ///
    /// # Errors
    /// [`ModelError::Part`] if it is missing or has another type or shape.
    pub fn get<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Vec<T>, ModelError> {
        Ok(self
            .data::<T>(name, shape)?
            .chunks_exact(T::SIZE)
            .map(T::read)
            .collect())
    }

    /// [`Self::get`] for a large tensor: its numbers stay in the file, which lives as long as they
    /// do.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn keep<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Kept<T>, ModelError> {
        let data = self.data::<T>(name, shape)?;
        let as_they_lie =
            cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(data).is_ok();
        match as_they_lie {
            true => Ok(Kept {
                bytes: self.bytes.slice_ref(data),
                of: PhantomData,
            }),
            false => Ok(self.get(name, shape)?.into()),
        }
    }

    fn data<T: Element>(&self, name: &str, shape: &[usize]) -> Result<&'a [u8], ModelError> {
        let view = self.view(name)?;
        if view.dtype() != T::DTYPE || view.shape() != shape {
            let problem = format!(
                "is {:?} {:?}; {:?} {shape:?} is wanted",
                view.dtype(),
                view.shape(),
                T::DTYPE
            );
            return Err(ModelError::part(self.file, name, problem));
        }
        Ok(view.data())
    }

    fn view(&self, name: &str) -> Result<TensorView<'a>, ModelError> {
        self.tensors
            .tensor(name)
            .map_err(|_| ModelError::part(self.file, name, "is missing"))
    }
}

/// A safetensors file in the making. The same tensors give the same bytes, in whatever order they
/// came.
#[derive(Debug, Default)]
pub struct TensorFile(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl TensorFile {
    /// Without a tensor yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, row by row; `data` has as many numbers as `shape` says.
    #[must_use]
    pub fn with<T: Element>(mut self, name: &str, shape: &[usize], data: &[T]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len(), "{name}");
        let mut bytes = Vec::with_capacity(data.len() * T::SIZE);
        data.iter().for_each(|number| number.write(&mut bytes));
        self.0
            .insert(name.to_owned(), (T::DTYPE, shape.to_vec(), bytes));
        self
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`ModelError::Part`] if a tensor's numbers do not fill its shape.
    pub fn into_bytes(self) -> Result<Bytes, ModelError> {
        let mut views = BTreeMap::new();
        for (name, (dtype, shape, data)) in &self.0 {
            let view = TensorView::new(*dtype, shape.clone(), data)
                .map_err(|e| ModelError::part("safetensors", name, e.to_string()))?;
            views.insert(name.as_str(), view);
        }
        let bytes = safetensors::serialize(views, None)
            .map_err(|e| ModelError::damaged("safetensors", e))?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_comes_back_as_it_went_and_nothing_else_does() {
        let bytes = TensorFile::new()
            .with("x", &[2, 2], &[1f32, 2.0, 3.0, f32::MIN])
            .into_bytes()
            .unwrap();
        let tensors = Tensors::parse("m.safetensors", &bytes).unwrap();
        assert_eq!(tensors.shape("x"), Ok([2, 2]));
        assert_eq!(
            tensors.get::<f32>("x", &[2, 2]),
            Ok(vec![1.0, 2.0, 3.0, f32::MIN])
        );
        for (name, shape, message) in [
            ("y", &[2, 2][..], "m.safetensors: y is missing"),
            (
                "x",
                &[4],
                "m.safetensors: x is F32 [2, 2]; F32 [4] is wanted",
            ),
        ] {
            assert_eq!(
                tensors.get::<f32>(name, shape).unwrap_err().to_string(),
                message
            );
        }
        assert!(tensors.keep::<f32>("x", &[4]).is_err());
        let other = tensors.get::<f64>("x", &[2, 2]).unwrap_err();
        assert_eq!(
            other.to_string(),
            "m.safetensors: x is F32 [2, 2]; F64 [2, 2] is wanted"
        );
    }

    #[test]
    fn what_is_kept_is_what_is_read_wherever_it_lies() {
        let file = TensorFile::new()
            .with("x", &[3], &[1f64, -0.5, f64::MAX])
            .with::<f64>("none", &[0], &[]);
        let (file, mut in_place) = (file.into_bytes().unwrap(), 0);
        for ahead in 0..16 {
            let bytes = Bytes::from([vec![0; ahead], file.to_vec()].concat()).slice(ahead..);
            let tensors = Tensors::parse("m.safetensors", &bytes).unwrap();
            let kept: Kept<f64> = tensors.keep("x", &[3]).unwrap();
            assert_eq!(&*kept, tensors.get::<f64>("x", &[3]).unwrap());
            assert!(tensors.keep::<f64>("none", &[0]).unwrap().is_empty());
            in_place += usize::from(bytes.as_ptr_range().contains(&kept.as_ptr().cast()));
            drop(tensors);
            drop(bytes);
            assert_eq!(kept[2], f64::MAX, "the file lives as long as they do");
        }
        assert_eq!(in_place, 2, "aligned");
    }
}
