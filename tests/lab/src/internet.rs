//! Hosts behind routers that translate addresses and filter: patchbay's, made of the kernel's own nftables.

use std::{fmt, net::Ipv4Addr, sync::mpsc};

use patchbay::{Device, Lab, RouterPreset};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::LabError;

/// What is between a host and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// Nothing: the host has a public address.
    Open,
    /// A router at home. One outer port for each inner one, whoever is called; only who was called may answer. Two hosts behind
    /// such routers reach each other once both have sent (a hole is punched).
    Home,
    /// A provider's, with another outer port for each who is called. Two hosts behind such routers don't reach each other.
    Symmetric,
    /// A firewall that lets out TCP to the ports 80 and 443, and of UDP nothing but names (port 53).
    NoUdp,
}

impl Gateway {
    fn preset(self) -> RouterPreset {
        match self {
            Self::Open => RouterPreset::Public,
            Self::Home => RouterPreset::Home,
            Self::Symmetric => RouterPreset::IspCgnatSymmetric,
            Self::NoUdp => RouterPreset::Corporate,
        }
    }
}

/// Hosts that are joined by an internet, each behind a gateway of its own. Everything ends when it is dropped.
///
/// Its links have no delay and lose nothing: patchbay would use netem for that, which not every kernel has. Links with conditions are
/// those of a [`Network`](crate::Network). Needs the program `nft`.
pub struct Internet {
    sites: Vec<Site>,
    _lab: Lab,
    /// For patchbay's own tasks.
    _runtime: Runtime,
}

/// A host of an [`Internet`], with a runtime of one thread in its namespace.
#[derive(Clone, Debug)]
pub struct Site {
    device: Device,
    address: Ipv4Addr,
}

impl Internet {
    /// Hosts of these names, each behind a new gateway. Not from within a runtime.
    ///
    /// All at once, since a gateway that came later could take others off the internet for half a minute: a bridge in its middle has the
    /// lowest of its ports' link addresses for its own, and who has sent already remembers the one before.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] where the process may not make namespaces, `nft` is missing, or two have the same name.
    pub fn new<'a>(hosts: impl IntoIterator<Item = (&'a str, Gateway)>) -> Result<Self, LabError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-internet")
            .enable_all()
            .build()
            .map_err(LabError::io("starting a runtime"))?;
        let hosts: Vec<_> = hosts.into_iter().collect();
        let made = runtime.block_on(async {
            let lab = Lab::builder().build().await?;
            let mut devices = Vec::new();
            for (name, gateway) in hosts {
                let router = lab.add_router(&format!("{name}-gateway"));
                let router = router.preset(gateway.preset()).build().await?;
                devices.push(lab.add_device(name).uplink(router.id()).build().await?);
            }
            Ok((lab, devices))
        });
        let (lab, devices) = made.map_err(|error: Refused| {
            LabError::unavailable("an internet can't be made (it needs `nft`)", error)
        })?;
        let site = |device: Device| {
            let address = device.ip().ok_or_else(|| {
                LabError::unavailable("a host can't be made", "it got no IPv4 address")
            })?;
            Ok(Site { device, address })
        };
        Ok(Self {
            sites: devices.into_iter().map(site).collect::<Result<_, _>>()?,
            _lab: lab,
            _runtime: runtime,
        })
    }

    /// The host of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn host(&self, name: &str) -> &Site {
        let found = self.sites.iter().find(|site| site.name() == name);
        found.unwrap_or_else(|| panic!("no host {name:?} on this internet"))
    }
}

type Refused = Box<dyn std::error::Error + Send + Sync>;

impl fmt::Debug for Internet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internet")
            .field("sites", &self.sites)
            .finish_non_exhaustive()
    }
}

impl Site {
    /// Its name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Its own address; behind a gateway others see another.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Runs a future on this host, in the background.
    ///
    /// # Panics
    /// When the [`Internet`] is gone.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let task = self.device.spawn(move |_| future);
        task.expect("the internet is there")
    }

    /// Runs a future on this host and waits for it. Not from within a runtime.
    ///
    /// # Panics
    /// As the future does, or when the [`Internet`] is gone.
    pub fn block_on<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
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
}
