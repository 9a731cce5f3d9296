use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::{Conditions, Direction, LabError, Link, Loss};

/// What a link was found to do.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The median round trip of small UDP packets.
    pub round_trip: Duration,
    /// What one TCP connection carried forth, in bits a second; `None` where the conditions have no rate to compare with.
    pub rate: Option<f64>,
}

/// Round trips that are measured.
const PINGS: usize = 21;
/// How long the bulk transfer lasts.
const BULK: Duration = Duration::from_millis(1500);
/// After this its rate is taken.
const WARM_UP: Duration = Duration::from_millis(700);

impl Link<'_> {
    /// Measures the link, and compares with what its conditions say: round trips with an echo over UDP, and the rate forth with one TCP
    /// connection. Loss, jitter and silences are left out while it lasts, as they would blur it; takes about 2 s.
    ///
    /// # Errors
    /// [`LabError::Inexact`] where the median round trip is more than 1 ms and 5 % beside the sum of the delays, or TCP carries less than 80 %
    /// or more than 101 % of the rate. Another program that takes the processor is the usual cause.
    pub fn check(self) -> Result<Measured, LabError> {
        let before = Direction::BOTH.map(|direction| self.conditions(direction));
        for (direction, conditions) in Direction::BOTH.into_iter().zip(before) {
            let plain = Conditions {
                jitter: Duration::ZERO,
                loss: Loss::Random(0.0),
                reorder: 0.0,
                stalls: None,
                ..conditions
            };
            self.set_direction(direction, plain);
        }
        let measured = self.measure(before);
        for (direction, conditions) in Direction::BOTH.into_iter().zip(before) {
            self.set_direction(direction, conditions);
            self.take_counts(direction);
        }
        measured
    }

    fn measure(self, [forth, back]: [Conditions; 2]) -> Result<Measured, LabError> {
        let [first, second] = self.hosts();
        let address = second.address();
        let server = second
            .run(move || UdpSocket::bind((address, 0)))
            .map_err(LabError::io("opening a UDP socket"))?;
        let target = local(server.local_addr())?;
        let echo = second.spawn(echo(server)?);
        let round_trip = first.run(move || round_trip(target));
        echo.abort();
        let round_trip = round_trip.map_err(LabError::io("measuring the round trip"))?;
        let expected = forth.delay + back.delay;
        let allowed = Duration::from_millis(1) + expected / 20;
        if round_trip < expected || round_trip > expected + allowed {
            return Err(LabError::Inexact {
                what: format!("a round trip takes {round_trip:?}, it should take {expected:?}"),
            });
        }

        let Some(expected) = forth.rate else {
            return Ok(Measured {
                round_trip,
                rate: None,
            });
        };
        let listener = second
            .run(move || TcpListener::bind((address, 0)))
            .map_err(LabError::io("opening a TCP socket"))?;
        let target = local(listener.local_addr())?;
        let rate = std::thread::scope(|scope| {
            scope.spawn(|| first.run(move || send(target)));
            second.run(move || receive(&listener))
        });
        let rate = rate.map_err(LabError::io("measuring the rate"))?;
        // The headers of IP and TCP (52 of 1500 bytes) are the link's load but not TCP's.
        let payload = expected as f64 * 1448.0 / 1500.0;
        if !(0.8..1.01).contains(&(rate / payload)) {
            return Err(LabError::Inexact {
                what: format!(
                    "TCP carries {:.1} Mbit/s, it should carry {:.1}",
                    rate / 1e6,
                    payload / 1e6
                ),
            });
        }
        Ok(Measured {
            round_trip,
            rate: Some(rate),
        })
    }
}

fn local(address: std::io::Result<SocketAddr>) -> Result<SocketAddr, LabError> {
    address.map_err(LabError::io("asking a socket for its address"))
}

fn echo(socket: UdpSocket) -> Result<impl Future<Output = ()> + Send + 'static, LabError> {
    socket
        .set_nonblocking(true)
        .map_err(LabError::io("making a socket non-blocking"))?;
    Ok(async move {
        let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else {
            return;
        };
        let mut buffer = [0; 64];
        while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..bytes], from).await;
        }
    })
}

fn round_trip(target: SocketAddr) -> std::io::Result<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 64];
    let mut taken = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let sent = Instant::now();
        socket.send_to(&[0; 56], target)?;
        socket.recv_from(&mut buffer)?;
        taken.push(sent.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[PINGS / 2])
}

fn send(target: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(target) else {
        return;
    };
    let block = vec![0; 64 << 10];
    // It ends when the receiver has had enough and closes.
    while stream.write_all(&block).is_ok() {}
}

fn receive(listener: &TcpListener) -> std::io::Result<f64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let began = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut counted: Option<(Instant, u64)> = None;
    loop {
        let bytes = stream.read(&mut buffer)? as u64;
        let now = Instant::now();
        match &mut counted {
            Some((since, sum)) => {
                *sum += bytes;
                if now - began >= BULK {
                    return Ok(*sum as f64 * 8.0 / (now - *since).as_secs_f64());
                }
            }
            None if now - began >= WARM_UP => counted = Some((now, 0)),
            None => {}
        }
    }
}
