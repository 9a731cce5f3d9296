//! One run: a warm-up, a rest, the long part, a rest, and what is left then.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Code;
use tower_iroh::{Links, Path};

use crate::{
    Error, PANICS,
    calls::Wish,
    clients::{Arm, Client},
    faults::{self, Log},
    ledger::Ledger,
    report,
    vitals::{self, Memory, Vitals},
    world::{self, Host},
};

/// How soon after the last fault everything has to succeed.
const RECOVERY: Duration = Duration::from_secs(15);
/// How soon after the last call nothing of it is left. QUIC's own time-outs are 30 s.
const QUIET: Duration = Duration::from_secs(45);
/// How often a line is printed.
const LINE: Duration = Duration::from_secs(10);

pub(crate) struct Soak {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) log: Arc<Log>,
    pub(crate) began: Instant,
    pub(crate) seed: u64,
    pub(crate) callers: u16,
}

impl Soak {
    pub(crate) async fn run(&self, time: Duration) -> Result<(), Error> {
        let mut hosts = Vec::new();
        for (number, name) in ["direct", "behind way 1", "behind way 2"]
            .into_iter()
            .enumerate()
        {
            let way = (number > 0).then(|| self.derived(100 + number as u64));
            let host = Host::start(name.to_owned(), self.ledger.clone(), way);
            hosts.push(Arc::new(host.await?));
        }
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(Client::new(&hosts).await?);
        }
        let clients: Arc<[Client]> = clients.into();

        let bar = report::bar(time);
        // A fifth of it to get warm; then the rest begins, by whose first third memory is judged.
        let warm = (time / 5).min(Duration::from_secs(60));
        let mut seen = Seen {
            rows: Vec::new(),
            memory: Memory::over(warm),
        };
        let outcome = async {
            self.stretch(1, warm, &hosts, &clients, &bar, &mut seen)
                .await?;
            let before = self.quiet(&hosts, None).await?;
            println!(
                "{:5.0} s  at rest after the warm-up: {before}",
                self.began.elapsed().as_secs_f64()
            );
            let rest = time.saturating_sub(warm);
            seen.memory = Memory::over(rest);
            self.stretch(2, rest, &hosts, &clients, &bar, &mut seen)
                .await?;
            let after = self.quiet(&hosts, Some(before)).await?;
            println!(
                "{:5.0} s  at rest at the end: {after}",
                self.began.elapsed().as_secs_f64()
            );
            seen.rows.push((self.began.elapsed(), after));
            let mut grown = after.grown(&before);
            let (first, last) = seen.memory.thirds();
            let medians = format!(
                "the median of resident memory under load was {} MiB in the first third after the warm-up and {} in the last",
                first >> 20,
                last >> 20
            );
            if time < vitals::LONG {
                println!("         {medians}: not judged in less than {:?}", vitals::LONG);
            } else if seen.memory.has_grown() {
                grown.push(medians);
            } else {
                println!("         {medians}");
            }
            if grown.is_empty() {
                Ok(())
            } else {
                Err(Error::from(grown.join("; ")))
            }
        }
        .await;
        bar.finish_and_clear();
        report::summary(&self.ledger, &self.log, &seen.rows);
        for (number, client) in clients.iter().enumerate() {
            for host in &hosts {
                if let Some(stats) = client.links.stats(host.peer().id()) {
                    println!("client {number} to {}: {stats}", host.name);
                }
            }
        }
        for way in hosts.iter().filter_map(|host| host.way.as_ref()) {
            println!(
                "a way forwarded {} datagrams and lost {}",
                way.forwarded(),
                way.lost()
            );
        }
        outcome
    }

    /// A seed for each who draws, all from the one.
    fn derived(&self, number: u64) -> u64 {
        self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Calls and faults for a while, then calls without faults until all succeed, then nothing.
    async fn stretch(
        &self,
        part: u64,
        time: Duration,
        hosts: &[Arc<Host>],
        clients: &Arc<[Client]>,
        bar: &indicatif::ProgressBar,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let (calm, calmed) = watch::channel(false);
        let (hush, hushed) = watch::channel(false);
        let links: Vec<Links> = clients.iter().map(|client| client.links.clone()).collect();
        let mut troubles = JoinSet::new();
        for (number, host) in hosts.iter().enumerate() {
            let seed = self.derived(part * 1000 + number as u64);
            let (host, log) = (host.clone(), self.log.clone());
            let trouble = faults::trouble(host, links.clone(), log, seed, calmed.clone());
            troubles.spawn(told(self.ledger.clone(), trouble));
        }
        let seed = self.derived(part * 1000 + 99);
        let (ledger, log) = (self.ledger.clone(), self.log.clone());
        let guests = faults::guests(hosts.to_vec(), ledger, log, seed, calmed);
        troubles.spawn(told(self.ledger.clone(), guests));
        let mut callers = JoinSet::new();
        for number in 0..u64::from(self.callers) {
            let rng = SmallRng::seed_from_u64(self.derived(part * 1000 + 200 + number));
            let caller = call_on_and_on(
                rng,
                self.ledger.clone(),
                clients.clone(),
                hosts.len(),
                hushed.clone(),
            );
            callers.spawn(caller);
        }

        self.watch(time, hosts, bar, seen).await?;
        calm.send_replace(true);
        while let Some(trouble) = troubles.join_next().await {
            trouble?;
        }
        self.checked()?;
        self.recovers(hosts, clients).await?;
        hush.send_replace(true);
        while let Some(caller) = callers.join_next().await {
            caller?;
        }
        self.checked()
    }

    /// Looks on, and says every ten seconds what it sees.
    async fn watch(
        &self,
        time: Duration,
        hosts: &[Arc<Host>],
        bar: &indicatif::ProgressBar,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let end = Instant::now() + time;
        let mut next = Instant::now() + LINE.min(time / 2);
        while Instant::now() < end {
            let step = Duration::from_millis(500).min(end - Instant::now());
            tokio::select! {
                () = sleep(step) => {}
                () = self.ledger.failed() => {}
            }
            self.ledger.sweep();
            self.checked()?;
            seen.memory.look()?;
            bar.set_position(self.began.elapsed().as_secs());
            if Instant::now() >= next {
                next += LINE;
                let vitals = Vitals::take(world::tasks(hosts))?;
                let at = self.began.elapsed();
                seen.rows.push((at, vitals));
                let line = report::line(at, &self.ledger, &self.log, &vitals);
                bar.suspend(|| println!("{line}"));
            }
        }
        Ok(())
    }

    /// Every client reaches every host in every way: three calls in a row, while the others go on.
    async fn recovers(&self, hosts: &[Arc<Host>], clients: &Arc<[Client]>) -> Result<(), Error> {
        let began = Instant::now();
        for client in clients.iter() {
            for (number, host) in hosts.iter().enumerate() {
                for arm in Arm::ALL {
                    let mut good = 0;
                    while good < 3 {
                        let Some(channel) = client.channel(number, arm) else {
                            return Err("no such channel".into());
                        };
                        let code = Wish::easy().make(&self.ledger, channel, arm).await;
                        good = if code == Some(Code::Ok) { good + 1 } else { 0 };
                        if began.elapsed() > RECOVERY {
                            return Err(format!(
                                "{RECOVERY:?} after the last fault the server {} still answers {code:?} over {arm:?}",
                                host.name
                            )
                            .into());
                        }
                        self.checked()?;
                        if good == 0 {
                            sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            }
        }
        for client in clients.iter() {
            for host in hosts {
                let Some(way) = &host.way else { continue };
                let path = client.links.stats(host.peer().id()).and_then(|it| it.path);
                if path
                    .as_ref()
                    .is_some_and(|path| *path != Path::Direct(way.addr()))
                {
                    return Err(format!(
                        "the server {} is reached by {path:?}, round its way",
                        host.name
                    )
                    .into());
                }
            }
        }
        let took = began.elapsed().as_secs_f64();
        println!(
            "{:5.0} s  all answer again, {took:.2} s after the last fault",
            self.began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Waits until nothing is in flight any more, and nothing that is short-lived is left.
    ///
    /// Without a measure that is when tasks and files have not become fewer for five seconds.
    async fn quiet(&self, hosts: &[Arc<Host>], measure: Option<Vitals>) -> Result<Vitals, Error> {
        let began = Instant::now();
        let mut least = Vitals::take(world::tasks(hosts))?;
        let mut since = Instant::now();
        loop {
            sleep(Duration::from_millis(100)).await;
            self.ledger.sweep();
            self.checked()?;
            let now = Vitals::take(world::tasks(hosts))?;
            if now.tasks < least.tasks || now.files < least.files {
                least = now;
                since = Instant::now();
            }
            let idle = self.ledger.open() == 0 && self.ledger.handlers() == 0;
            let enough = match measure {
                Some(before) => now.grown(&before).is_empty(),
                None => since.elapsed() > Duration::from_secs(5),
            };
            if idle && enough {
                return Ok(now);
            }
            if began.elapsed() > QUIET {
                if !idle {
                    let (open, handlers) = (self.ledger.open(), self.ledger.handlers());
                    return Err(format!(
                        "{QUIET:?} after the last call {open} are open and {handlers} handlers run"
                    )
                    .into());
                }
                return Ok(now);
            }
        }
    }

    fn checked(&self) -> Result<(), Error> {
        match PANICS.load(Ordering::Relaxed) {
            0 if !self.ledger.has_failed() => Ok(()),
            0 => Err("see above".into()),
            panics => Err(format!("{panics} panics that nobody ordered, see above").into()),
        }
    }
}

/// What was seen of the process.
struct Seen {
    /// For the table.
    rows: Vec<(Duration, Vitals)>,
    memory: Memory,
}

/// A server that does not stop or start ends the run at once.
async fn told(ledger: Arc<Ledger>, trouble: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = trouble.await {
        ledger.fail(error.to_string());
    }
}

async fn call_on_and_on(
    mut rng: SmallRng,
    ledger: Arc<Ledger>,
    clients: Arc<[Client]>,
    hosts: usize,
    hushed: watch::Receiver<bool>,
) {
    while !*hushed.borrow() {
        let client = &clients[rng.random_range(0..clients.len())];
        let arm = Arm::ALL[rng.random_range(0..Arm::ALL.len())];
        if let Some(channel) = client.channel(rng.random_range(0..hosts), arm) {
            Wish::draw(&mut rng).make(&ledger, channel, arm).await;
        }
        sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
    }
}
