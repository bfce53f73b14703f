//! The drivers of this build, by runtime.

use bugle_types::Runtime;

use crate::{
    BoxFuture, ContainerDriver, Driver, ProgramDriver, PythonDriver, StartError, StartRequest,
    Started,
};

/// Starts instances of every runtime that this build has.
#[derive(Clone, Debug)]
pub struct Drivers {
    /// `python3.N`.
    pub python: PythonDriver,
    /// `posix-custom-runtime` and `http`.
    pub programs: ProgramDriver,
    /// `custom image`, and `http` where the function is an image. None where images are not held.
    pub containers: Option<ContainerDriver>,
}

impl Drivers {
    /// Starts in the background what the first start of a function of this runtime needs.
    pub fn prepare(&self, runtime: &Runtime) {
        if let (Runtime::Image(_), Some(containers)) = (runtime, &self.containers) {
            return containers.prepare();
        }
        self.python.prepare(runtime);
    }
}

impl Driver for Drivers {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        match &request.spec.runtime {
            Runtime::Python(_) => Driver::start(&self.python, request),
            Runtime::Program(_) => Driver::start(&self.programs, request),
            Runtime::Image(_) => match &self.containers {
                Some(containers) => Driver::start(containers, request),
                None => unsupported(
                    "the function is a container image, and this platform holds no images; \
                     register the program in it with the runtime http or posix-custom-runtime"
                        .to_owned(),
                ),
            },
            Runtime::Other(name) => unsupported(format!(
                "the runtime {name} cannot be run by this build, which runs python3.6 to \
                 python3.13, posix-custom-runtime and http; register the function with one of them"
            )),
        }
    }
}

fn unsupported(message: String) -> BoxFuture<'static, Result<Started, StartError>> {
    Box::pin(async move { Err(StartError::Unsupported(message)) })
}
