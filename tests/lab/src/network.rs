use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    Conditions, Counts, Host, LabError, Protocol,
    host::{DEVICE, MASK},
    wire::{Way, Wire},
};

/// Which of a link's two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host that was named first to the second.
    Forth,
    /// From the second to the first.
    Back,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Forth, Self::Back];
}

/// Hosts, each joined to each by a link of its own.
///
/// Clones share it, so that a task of one host can cut a link or run something on another. Everything ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hosts: Vec<Host>,
    wire: Wire,
}

/// The link between two hosts.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    network: &'a Network,
    ends: [usize; 2],
}

impl Network {
    /// Hosts of these names, and between them links that pass everything at once. The luck of the links is the same in each run.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] where the process may not make namespaces or devices: it has not called [`enter`](crate::enter), or could not.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, LabError> {
        Self::with_seed(names, 0)
    }

    /// The same with other luck.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_seed<'a>(
        names: impl IntoIterator<Item = &'a str>,
        seed: u64,
    ) -> Result<Self, LabError> {
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for (number, name) in names.into_iter().enumerate() {
            let (host, device) = Host::new(name, address(0, number))?;
            hosts.push(host);
            devices.push(device);
        }
        let addresses: Vec<_> = hosts.iter().map(Host::address).collect();
        let wire = Wire::new(devices, &addresses, seed)?;
        let shared = Arc::new(Shared { hosts, wire });
        Ok(Self { shared })
    }

    /// The host of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn host(&self, name: &str) -> &Host {
        &self.shared.hosts[self.index(name)]
    }

    /// The link between two hosts, seen from the first.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn link(&self, first: &str, second: &str) -> Link<'_> {
        Link {
            network: self,
            ends: [self.index(first), self.index(second)],
        }
    }

    fn index(&self, name: &str) -> usize {
        let found = self
            .shared
            .hosts
            .iter()
            .position(|host| host.name() == name);
        found.unwrap_or_else(|| panic!("no host {name:?} in this network"))
    }

    /// Gives a host a further address: its `number`th, from 1 on, or with 0 the first one again. What is sent to it arrives over the
    /// same links.
    ///
    /// # Errors
    /// [`LabError::Command`] where the host has it already.
    pub fn add_address(&self, host: &str, number: u8) -> Result<Ipv4Addr, LabError> {
        let index = self.index(host);
        let address = address(number, index);
        let host = &self.shared.hosts[index];
        host.command(
            "ip",
            &["addr", "add", &format!("{address}{MASK}"), "dev", DEVICE],
        )?;
        // A host that had no address any more has lost its route as well.
        host.command("ip", &["route", "replace", "default", "dev", DEVICE])?;
        self.shared.wire.assign(address, index);
        Ok(address)
    }

    /// Takes an address from a host, as when it leaves a network; the others stay.
    ///
    /// # Errors
    /// [`LabError::Command`] where the host has no such address.
    pub fn remove_address(&self, host: &str, address: Ipv4Addr) -> Result<(), LabError> {
        let index = self.index(host);
        self.shared.hosts[index].command(
            "ip",
            &["addr", "del", &format!("{address}{MASK}"), "dev", DEVICE],
        )?;
        self.shared.wire.unassign(address);
        Ok(())
    }
}

fn address(network: u8, host: usize) -> Ipv4Addr {
    let host = u8::try_from(host + 1).expect("fewer than 255 hosts");
    Ipv4Addr::new(10, 77, network, host)
}

impl<'a> Link<'a> {
    /// Its two hosts.
    pub fn hosts(self) -> [&'a Host; 2] {
        self.ends.map(|end| &self.network.shared.hosts[end])
    }

    fn way(self, direction: Direction) -> &'a Way {
        let [first, second] = self.ends;
        match direction {
            Direction::Forth => self.network.shared.wire.way(first, second),
            Direction::Back => self.network.shared.wire.way(second, first),
        }
    }

    /// Sets both directions, from the next packet on.
    pub fn set(self, conditions: Conditions) {
        for direction in Direction::BOTH {
            self.set_direction(direction, conditions);
        }
    }

    /// Sets one direction, from the next packet on.
    pub fn set_direction(self, direction: Direction, conditions: Conditions) {
        self.way(direction).set(conditions);
    }

    /// What one direction does now.
    pub fn conditions(self, direction: Direction) -> Conditions {
        self.way(direction).conditions()
    }

    /// Lets nothing through any more, in both directions; what is under way arrives.
    pub fn cut(self) {
        self.set_cut(true);
    }

    /// Undoes [`cut`](Self::cut).
    pub fn restore(self) {
        self.set_cut(false);
    }

    fn set_cut(self, cut: bool) {
        for direction in Direction::BOTH {
            let conditions = self.conditions(direction);
            self.set_direction(direction, Conditions { cut, ..conditions });
        }
    }

    /// Drops all packets of a protocol, in both directions, as a firewall does that says nothing; or, with `None`, lets all through again. What is
    /// under way arrives.
    pub fn block(self, blocked: Option<Protocol>) {
        for direction in Direction::BOTH {
            let conditions = self.conditions(direction);
            self.set_direction(
                direction,
                Conditions {
                    blocked,
                    ..conditions
                },
            );
        }
    }

    /// What one direction has done since it was asked last.
    pub fn take_counts(self, direction: Direction) -> Counts {
        self.way(direction).take_counts()
    }
}
