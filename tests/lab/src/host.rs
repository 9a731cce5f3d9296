use std::{
    fs::File,
    future::Future,
    net::Ipv4Addr,
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::LabError;

/// The network device of each host.
pub(crate) const DEVICE: &str = "lab0";
/// Each address by itself: of several in one subnet Linux would take all away with the first.
pub(crate) const MASK: &str = "/32";
/// As on Ethernet.
const MTU: u16 = 1500;
/// Packets that the kernel keeps for the thread that reads the device. The link's queue is the shaper's; this one only bridges
/// the time until that thread has a turn.
const DEVICE_QUEUE: u32 = 10_000;

/// A host of the lab: a network namespace, and a runtime whose threads are all in it.
///
/// Dropping it ends its runtime without waiting for its tasks.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Arc<File>,
    runtime: Option<Runtime>,
}

impl Host {
    pub(crate) fn new(name: &str, address: Ipv4Addr) -> Result<(Self, SyncDevice), LabError> {
        // A thread of its own, since it moves to the new namespace and there is no way back.
        let made = thread::Builder::new()
            .name(format!("lab-make-{name}"))
            .spawn(move || make_namespace(address))
            .map_err(LabError::io("starting a thread"))?
            .join();
        let (namespace, device) = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let namespace = Arc::new(namespace);
        let entered = namespace.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .on_thread_start(move || {
                // A thread in the wrong network would measure the wrong thing.
                setns(&*entered, CloneFlags::CLONE_NEWNET).expect("enter the host's namespace");
            })
            .build()
            .map_err(LabError::io("starting a runtime"))?;
        let host = Self {
            name: name.to_owned(),
            address,
            namespace,
            runtime: Some(runtime),
        };
        Ok((host, device))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that it has from the beginning.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("there until it is dropped")
    }

    /// Runs a future on this host, in the background.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime().spawn(future)
    }

    /// Runs a future on this host and waits for it. Not from within a runtime.
    ///
    /// # Panics
    /// As the future does.
    pub fn block_on<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        // Not `Runtime::block_on`, which would run it on the caller's thread, and that is in another namespace.
        let task = self.spawn(future);
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = done.send(task.await);
        });
        match result.recv().expect("the runtime is there") {
            Ok(output) => output,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Runs a closure on a thread of this host and waits for it.
    ///
    /// # Panics
    /// As the closure does.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace.clone();
        let thread = thread::spawn(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).expect("enter the host's namespace");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program on this host; what it printed.
    ///
    /// # Errors
    /// [`LabError::Command`] with what it printed where it fails.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String, LabError> {
        let program = program.to_owned();
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        self.run(move || command(&program, &arguments))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn make_namespace(address: Ipv4Addr) -> Result<(File, SyncDevice), LabError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| LabError::unavailable("network namespaces are not allowed", error))?;
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(LabError::io("opening a network namespace"))?;
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MTU)
        .build_sync()
        .map_err(|error| LabError::unavailable("a TUN device can't be made", error))?;
    for arguments in [
        "link set dev lo up".to_owned(),
        format!("link set dev {DEVICE} addrgenmode none"),
        format!("addr add {address}{MASK} dev {DEVICE}"),
        format!("link set dev {DEVICE} txqueuelen {DEVICE_QUEUE} up"),
        format!("route add default dev {DEVICE}"),
    ] {
        let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        command("ip", &arguments)?;
    }
    Ok((namespace, device))
}

fn command(program: &str, arguments: &[String]) -> Result<String, LabError> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(LabError::io("starting a program"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(LabError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        output: text + &String::from_utf8_lossy(&output.stderr),
    })
}
