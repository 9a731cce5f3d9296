//! The first packet of a QUIC handshake, as often as one likes, each for another connection.
//!
//! A first packet is protected with keys that anybody can derive from the connection id in it (RFC 9001, section 5.2). So one packet of a real client is enough:
//! its content is protected again under other ids. The server has to begin a handshake for each of them.

use std::net::Ipv4Addr;

use iroh::EndpointAddr;
use rustls::{
    Side,
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{Keys, Version},
};
use tokio::net::UdpSocket;

use super::{Target, wire};
use crate::Error;

/// The largest header that is expected: two ids of 20 bytes, no token.
const ID: usize = 8;

/// A first packet that was taken from a real client.
pub(super) struct Initial {
    version: [u8; 4],
    /// The id that the client gave itself. It is part of what the handshake checks.
    source: Vec<u8>,
    number: u64,
    frames: Vec<u8>,
}

impl Initial {
    /// Has a real client dial a socket of ours, and reads what it sends.
    pub(super) async fn capture(target: &Target) -> Result<Self, Error> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let client = target
            .endpoint(iroh::SecretKey::generate(), wire::source(0))
            .await?;
        let addr = EndpointAddr::new(target.peer.id()).with_ip_addr(socket.local_addr()?);
        let dialling = client.connect(addr, tower_iroh::ALPN);
        let mut datagram = vec![0; 2048];
        let came = tokio::select! {
            came = socket.recv(&mut datagram) => came?,
            dialled = dialling => return Err(format!("nobody answers, and yet: {dialled:?}").into()),
        };
        datagram.truncate(came);
        tokio::spawn(async move { client.close().await });
        Self::open(&datagram).ok_or_else(|| "the first datagram is no Initial packet".into())
    }

    fn open(datagram: &[u8]) -> Option<Self> {
        let mut rest = Reader(datagram);
        let first = *rest.take(1)?.first()?;
        let version = rest.take(4)?.try_into().ok()?;
        let length = *rest.take(1)?.first()?;
        let destination = rest.take(length.into())?;
        let length = *rest.take(1)?.first()?;
        let source = rest.take(length.into())?.to_vec();
        let token = rest.integer()?;
        rest.take(token)?;
        let length = rest.integer()?;
        let head = datagram.len() - rest.0.len();
        let mut packet = datagram.get(..head + length)?.to_vec();
        let keys = keys(destination)?;
        // Protection hides the number and its length (RFC 9001, section 5.4).
        let sample = packet.get(head + 4..head + 20)?.to_vec();
        let mut flags = first;
        let mut number = packet.get(head..head + 4)?.to_vec();
        keys.local
            .header
            .decrypt_in_place(&sample, &mut flags, &mut number)
            .ok()?;
        let digits = usize::from(flags & 3) + 1;
        let number = number[..digits].to_vec();
        packet[0] = flags;
        packet[head..head + digits].copy_from_slice(&number);
        let (header, payload) = packet.split_at_mut(head + digits);
        let number = number
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        let frames = keys
            .local
            .packet
            .decrypt_in_place(number, header, payload)
            .ok()?;
        Some(Self {
            version,
            source,
            number,
            frames: frames.to_vec(),
        })
    }

    /// The packet for a connection of this id.
    pub(super) fn forge(&self, id: [u8; ID]) -> Option<Vec<u8>> {
        let keys = keys(&id)?;
        // Long header, Initial, a number of four bytes.
        let mut packet = vec![0b1100_0011];
        packet.extend(self.version);
        packet.push(ID as u8);
        packet.extend(id);
        packet.push(u8::try_from(self.source.len()).ok()?);
        packet.extend(&self.source);
        // No token.
        packet.push(0);
        let tag = keys.local.packet.tag_len();
        let length = u16::try_from(4 + self.frames.len() + tag).ok()?;
        packet.extend((length | 0x4000).to_be_bytes());
        let at = packet.len();
        packet.extend(u32::try_from(self.number).ok()?.to_be_bytes());
        let mut payload = self.frames.clone();
        let tag = keys
            .local
            .packet
            .encrypt_in_place(self.number, &packet, &mut payload)
            .ok()?;
        packet.extend(payload);
        packet.extend(tag.as_ref());
        let sample = packet[at + 4..at + 20].to_vec();
        let (start, rest) = packet.split_at_mut(at);
        keys.local
            .header
            .encrypt_in_place(&sample, &mut start[0], &mut rest[..4])
            .ok()?;
        // A server takes no first datagram below 1,200 bytes (RFC 9000, section 14.1).
        packet.resize(packet.len().max(1200), 0);
        Some(packet)
    }
}

fn keys(id: &[u8]) -> Option<Keys> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    Some(suite.keys(id, Side::Client, Version::V1))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// QUIC's integer of variable length (RFC 9000, section 16).
    fn integer(&mut self) -> Option<usize> {
        let first = *self.0.first()?;
        let bytes = self.take(1 << (first >> 6))?;
        let value = bytes
            .iter()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value & (u64::MAX >> 2 >> (64 - 8 * bytes.len()))).ok()
    }
}
