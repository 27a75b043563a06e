//! Which device tensors live on.

use clap::ValueEnum;
use tch::{Cuda, Device};

use crate::Failure;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device, or an error.
    Cuda,
}

impl DeviceChoice {
    /// The device of this choice.
    ///
    /// # Errors
    /// [`Failure::NoCuda`] where CUDA is asked for and missing.
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

/// Loads libtorch's CUDA half where it is installed. Nothing in the program refers to it by symbol,
/// so the linker leaves it out; it registers itself when loaded.
fn load_cuda() -> bool {
    #[expect(
        unsafe_code,
        reason = "loading a library runs its initialisers; libtorch's own are meant to be run so"
    )]
    // SAFETY: libtorch_cuda.so comes with the libtorch that is linked, and its initialisers only
    // register operators.
    let library = unsafe {
        libloading::os::unix::Library::open(
            Some("libtorch_cuda.so"),
            libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL,
        )
    };
    // Kept for the life of the process: what it registered is in use.
    library.map(std::mem::forget).is_ok()
}
