//! The device for tensor operations.

use clap::ValueEnum;
use tch::{Cuda, Device};

use crate::Failure;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DeviceChoice {
    /// The first CUDA device, or else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device; an error if there is none.
    Cuda,
}

impl DeviceChoice {
    /// The device of this choice.
    ///
    /// # Errors
    /// [`Failure::NoCuda`] if CUDA is requested and missing.
    pub fn device(self) -> Result<Device, Failure> {
        if self == Self::Cpu {
            return Ok(Device::Cpu);
        }
        let loaded = load_cuda();
        match (self, Cuda::is_available()) {
            (Self::Auto | Self::Cuda, true) => Ok(Device::Cuda(0)),
            (Self::Cuda, false) if loaded => Err(Failure::NoCuda("the driver finds none")),
            (Self::Cuda, false) => Err(Failure::NoCuda("this libtorch is the CPU build")),
            (Self::Auto | Self::Cpu, _) => Ok(Device::Cpu),
        }
    }
}

/// Loads libtorch's CUDA library if it is installed. The program refers to none of its symbols, so
/// the linker drops it; the library registers itself when loaded.
fn load_cuda() -> bool {
    #[expect(
        unsafe_code,
        reason = "loading a library runs its initialisers; libtorch is made to be loaded so"
    )]
    // SAFETY: libtorch_cuda.so comes with the libtorch that is linked, and its initialisers only
    // register operators.
    let library = unsafe {
        libloading::os::unix::Library::open(
            Some("libtorch_cuda.so"),
            libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL,
        )
    };
    // Never unloaded: the operators that it registered stay in use.
    library.map(std::mem::forget).is_ok()
}
