//! The ports on loopback: given ones that must be free, free ones for the rest.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use crate::options::Options;

#[derive(Clone, Copy)]
pub struct Ports {
    pub ca: u16,
    pub pva: u16,
    pub pva_broadcast: u16,
}

/// Ports that are held until the servers take them, so that two IOCs that start at once do not choose the same.
pub struct ReservedPorts {
    ports: Ports,
    _held: [(TcpListener, Option<UdpSocket>); 2],
    _broadcast: UdpSocket,
}

/// How often a free TCP port may have a UDP twin that is taken.
const ATTEMPTS: usize = 50;

impl ReservedPorts {
    pub fn reserve(options: &Options) -> Result<Self, String> {
        let ca = match options.ca_port {
            Some(port) => tcp("Channel Access", port)?,
            None => free_pair()?,
        };
        let pva = match options.pva_port {
            Some(port) => tcp("pvAccess", port)?,
            None => free_pair()?,
        };
        let wanted = options.pva_broadcast_port.unwrap_or(0);
        let broadcast = UdpSocket::bind((Ipv4Addr::LOCALHOST, wanted))
            .map_err(|error| format!("pvAccess UDP port {wanted} on 127.0.0.1 cannot be had: {error}"))?;
        let ports = Ports {
            ca: ca.0.local_addr().map_err(unnamed)?.port(),
            pva: pva.0.local_addr().map_err(unnamed)?.port(),
            pva_broadcast: broadcast.local_addr().map_err(unnamed)?.port(),
        };
        Ok(Self {
            ports,
            _held: [ca, pva],
            _broadcast: broadcast,
        })
    }

    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Let the servers have them.
    pub fn release(self) -> Ports {
        self.ports
    }
}

fn tcp(protocol: &str, port: u16) -> Result<(TcpListener, Option<UdpSocket>), String> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => Ok((listener, None)),
        Err(error) => Err(format!("{protocol} port {port} on 127.0.0.1 cannot be had: {error}")),
    }
}

/// Channel Access searches by UDP on the port that it serves by TCP.
fn free_pair() -> Result<(TcpListener, Option<UdpSocket>), String> {
    for _ in 0..ATTEMPTS {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(unnamed)?;
        let port = listener.local_addr().map_err(unnamed)?.port();
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok((listener, Some(socket)));
        }
    }
    Err("no port on 127.0.0.1 is free for both TCP and UDP".to_owned())
}

fn unnamed(error: std::io::Error) -> String {
    format!("no free port on 127.0.0.1: {error}")
}
