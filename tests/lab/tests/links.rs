//! The links do what their conditions say, to the kernel's own TCP and UDP.

use std::{
    net::UdpSocket,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use tower_iroh_lab::{Case, Conditions, Direction, Network, Outcome, suite};

fn main() -> ExitCode {
    suite([
        Case::new("delay_and_rate_are_as_set", delay_and_rate_are_as_set),
        Case::new("ping_agrees", ping_agrees).needs("ping"),
        Case::new(
            "loss_is_as_set_for_each_direction_by_itself",
            loss_is_as_set,
        ),
        Case::new("a_cut_link_passes_nothing_until_it_is_restored", a_cut_link),
        Case::new(
            "an_added_address_is_reached_and_a_removed_one_is_not",
            addresses,
        ),
    ])
}

const MS: Duration = Duration::from_millis(1);

fn delay_and_rate_are_as_set() -> Outcome {
    let network = Network::new(["client", "server"])?;
    let link = network.link("client", "server");
    for conditions in [
        Conditions::default(),
        Conditions::wan(40 * MS).with_rate(100_000_000),
        Conditions::narrow(),
    ] {
        link.set(conditions);
        println!("{:?}", link.check()?);
    }
    Ok(())
}

fn ping_agrees() -> Outcome {
    let network = Network::new(["client", "server"])?;
    let [client, server] = network.link("client", "server").hosts();
    network
        .link("client", "server")
        .set(Conditions::wan(40 * MS));
    let target = server.address().to_string();
    let said = client.command("ping", &["-c", "10", "-i", "0.05", "-q", &target])?;
    // rtt min/avg/max/mdev = 40.1/40.2/40.4/0.1 ms
    let figures = said.rsplit(" = ").next().unwrap_or_default();
    let average: f64 = figures.split('/').nth(1).unwrap_or_default().parse()?;
    assert!((40.0..42.0).contains(&average), "{said}");
    Ok(())
}

fn loss_is_as_set() -> Outcome {
    const SENT: u64 = 20_000;
    let network = Network::new(["client", "server"])?;
    let link = network.link("client", "server");
    let [client, server] = link.hosts();
    let target = server.address();
    let receiver = server.run(move || UdpSocket::bind((target, 0)))?;
    let target = receiver.local_addr()?;
    link.set_direction(Direction::Forth, Conditions::default().with_loss(0.03));
    let counting = thread::spawn(move || {
        receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut received = 0u64;
        while receiver.recv(&mut [0; 16]).is_ok() {
            received += 1;
        }
        std::io::Result::Ok(received)
    });
    client.run(move || -> std::io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..SENT {
            socket.send_to(&number.to_be_bytes(), target)?;
            if number % 50 == 0 {
                // Slower than the device's queue: what is lost shall be the link's doing alone.
                thread::park_timeout(MS);
            }
        }
        Ok(())
    })?;
    let received = counting.join().expect("counting")?;
    let forth = link.take_counts(Direction::Forth);
    assert_eq!(forth.packets, SENT);
    assert_eq!(forth.packets - forth.lost, received);
    let share = forth.lost as f64 / SENT as f64;
    assert!((0.025..0.035).contains(&share), "{share}");
    assert_eq!(link.take_counts(Direction::Back).lost, 0);
    Ok(())
}

fn a_cut_link() -> Outcome {
    let network = Network::new(["client", "server", "other"])?;
    let link = network.link("client", "server");
    assert!(reaches(&network, "server")?);
    link.cut();
    assert!(!reaches(&network, "server")?);
    assert!(reaches(&network, "other")?, "the other links go on");
    link.restore();
    assert!(reaches(&network, "server")?);
    Ok(())
}

fn addresses() -> Outcome {
    let network = Network::new(["client", "server"])?;
    let added = network.add_address("server", 1)?;
    let probe = |target| -> std::io::Result<bool> {
        let [client, server] = network.link("client", "server").hosts();
        let receiver = server.run(move || UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))?;
        let port = receiver.local_addr()?.port();
        client.run(move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"there?", (target, port)))?;
        arrives(&receiver)
    };
    assert!(probe(added)?);
    network.remove_address("server", added)?;
    assert!(!probe(added)?);

    let first = network.host("server").address();
    let other = network.add_address("server", 2)?;
    network.remove_address("server", first)?;
    assert!(probe(other)?, "it goes on without its first address");
    network.remove_address("server", other)?;
    assert_eq!(network.add_address("server", 0)?, first);
    assert!(probe(first)?, "it comes back from having none");
    Ok(())
}

fn reaches(network: &Network, name: &str) -> std::io::Result<bool> {
    let server = network.host(name);
    let address = server.address();
    let receiver = server.run(move || UdpSocket::bind((address, 0)))?;
    let target = receiver.local_addr()?;
    let client = network.host("client");
    client.run(move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"there?", target))?;
    arrives(&receiver)
}

fn arrives(receiver: &UdpSocket) -> std::io::Result<bool> {
    // An undelayed link takes a fraction of a millisecond.
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    let began = Instant::now();
    match receiver.recv(&mut [0; 16]) {
        Ok(_) => Ok(true),
        Err(_) if began.elapsed() >= Duration::from_millis(400) => Ok(false),
        Err(error) => Err(error),
    }
}
