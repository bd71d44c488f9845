//! The client's UDP SEARCH socket, on **every** target.
//!
//! One type, two implementations, chosen by whether a tokio reactor exists:
//!
//! * `tokio_backend` — delegates to `AsyncUdpV4` (`super::async_udp_v4`),
//!   the per-NIC bundle. Unchanged behaviour: the same sockets, the same
//!   `IP_PKTINFO` receive metadata, the same per-NIC fanout.
//! * `exec_backend` — **one wildcard socket** plus a receive pump thread.
//!
//! # Why the exec arm is one socket
//!
//! Because that is libca's own model. `udpiiu.cpp:174` creates a *single*
//! datagram socket bound to `INADDR_ANY:0` and reaches every subnet through
//! the address list, not through a socket per NIC — the per-NIC bundle is an
//! epics-rs elaboration over libca that buys accurate `RecvMeta.iface_ip` and
//! a `255.255.255.255` fanout. Neither is a parity requirement, and neither is
//! reachable on the embedded targets anyway: `tokio::net` and `socket2`
//! build for neither of them.
//!
//! The one thing the bundle bought that the target still needs is *reaching
//! every subnet's broadcast address*. That comes from
//! [`super::iface_v4::broadcast_addrs`] instead — the same list C's
//! `osiSockDiscoverBroadcastAddresses` builds, which is what libca sends its
//! SEARCHes to. So the exec arm is closer to C here than the host arm is.
//!
//! # Why the exec arm needs a thread
//!
//! There is no reactor to register the socket with: `runtime::task::spawn` runs
//! futures on a callback-pool worker, and `tokio::net::UdpSocket` panics there
//! ("there is no reactor running"). A blocking `recv_from` on a dedicated
//! thread, feeding a channel the engine's `select!` can await, is the same seam
//! the blocking CA/PVA *servers* already use for their own SEARCH responders
//! (`epics_ca_rs::server::blocking::handle_udp_search_blocking`) and the same
//! one `runtime::blocking_io` uses for TCP circuit pumps.
//!
//! Sends are **not** pumped. A UDP `send_to` either fits the socket buffer or
//! fails with `ENOBUFS`; it does not block on a peer, so it runs inline on the
//! engine's worker, exactly as the blocking server's `send_udp_reply` does.
//! One thread per search engine, and a CA client has one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// One received SEARCH datagram, and what the receiving path knows about it.
///
/// The three things a client's SEARCH-receive arm reads, in one type that is
/// nameable on both backends — which is the whole reason it exists rather than
/// the callers reading `AsyncUdpV4`'s `RecvMeta` directly: `RecvMeta` is part
/// of the host-only UDP stack, and a `select!` branch cannot carry a `#[cfg]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchDatagram {
    /// Datagram length written into the caller's buffer. A datagram longer
    /// than the buffer is truncated, as `recvfrom(2)` truncates.
    pub n: usize,
    /// Sender address.
    pub src: SocketAddr,
    /// IPv4 address of the NIC that received it, when the receive path
    /// reports one.
    ///
    /// `None` on a single wildcard socket with no `IP_PKTINFO` receive path —
    /// libca's model, and the only one available on the embedded targets. It
    /// keys the per-NIC `SO_RXQ_OVFL` drop log, so `None` means "this
    /// datagram's drop counter is not per-NIC attributable" rather than
    /// naming a NIC the platform never told us about.
    pub iface_ip: Option<Ipv4Addr>,
    /// The v4 address the datagram was sent to and the index of the interface
    /// it arrived on (0: not reported), when the receive path reports them
    /// (`IP_PKTINFO`, or the bound address of the per-NIC bundle's socket):
    /// pvxs's `origDest` and `dstif`, which decide a forward. `None` on the
    /// embedded targets' plain `recv_from` and on v6.
    pub pktinfo: Option<(Ipv4Addr, u32)>,
    /// The receiving NIC's kernel drop counter (`SO_RXQ_OVFL`), or 0 where the
    /// platform has no such counter.
    pub drops: u32,
}

/// A client's UDP SEARCH socket.
pub struct SearchUdpSocket(sys::Sock);

impl SearchUdpSocket {
    /// Bind an ephemeral SEARCH socket.
    ///
    /// `pump_name` and `pump_priority` describe the receive thread the
    /// `exec_backend` arm creates; the host arm has no thread and ignores
    /// them. They are unconditional parameters and not `#[cfg]`-gated so that
    /// a caller states its band once, in its own C-derived terms, without a
    /// gate of its own — the CA client passes libca's `CAC-UDP`
    /// (`udpiiu.cpp:128-132`), the PVA client its own.
    pub fn bind_ephemeral(
        broadcast: bool,
        pump_name: &str,
        pump_priority: crate::runtime::task::ThreadPriority,
    ) -> io::Result<Self> {
        sys::Sock::bind_ephemeral(broadcast, pump_name, pump_priority).map(Self)
    }

    /// `SO_RCVBUF`. Best-effort on every platform: a kernel is free to clamp.
    pub fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
        self.0.set_recv_buffer_size(size)
    }

    /// `IP_MULTICAST_TTL` — `EPICS_CA_MCAST_TTL` (epics-base 3.16, f2a1834d).
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        self.0.set_multicast_ttl_v4(ttl)
    }

    /// Opt into the kernel's per-socket drop counter where one exists
    /// (`SO_RXQ_OVFL`, Linux only). Diagnostic; failure is not fatal.
    pub fn enable_so_rxq_ovfl(&self) -> io::Result<()> {
        self.0.enable_so_rxq_ovfl()
    }

    /// Every local address this socket bound. One entry on the exec arm, one
    /// per NIC on the host arm.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.0.local_addrs()
    }

    /// The next SEARCH reply datagram.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
        self.0.recv(buf).await
    }

    /// Send one datagram to one destination.
    pub async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
        self.0.send_to(buf, dest).await
    }

    /// Send the same payload toward every eligible interface — for the
    /// limited broadcast `255.255.255.255` and for multicast groups, which a
    /// single socket would otherwise emit on one interface only.
    ///
    /// `ifaces` is the operator's egress constraint (`EPICS_PVA_INTF_ADDR_LIST`,
    /// pvxs `expandAddrList` over `Config::interfaces`); empty means every
    /// eligible interface, which is the default. It is one parameter rather
    /// than a second `fanout_on_interfaces` entry point because "which
    /// interfaces may this leave through" is one question with a default
    /// answer, and two functions let a caller ask it on one path and forget it
    /// on the other.
    ///
    /// Returns how many sends succeeded; errors only when none did.
    pub async fn fanout_to(
        &self,
        buf: &[u8],
        dest: SocketAddr,
        ifaces: &[Ipv4Addr],
    ) -> io::Result<usize> {
        self.0.fanout_to(buf, dest, ifaces).await
    }

    /// One send to a multicast group, pvxs `mcast_prep_sendto` then `sendto`
    /// (`client.cpp:1182-1194`): `ttl` and the egress `iface` of the
    /// endpoint, `0.0.0.0` leaving the choice to the routing table.
    pub async fn send_multicast_v4(
        &self,
        buf: &[u8],
        dest: SocketAddrV4,
        ttl: u32,
        iface: Ipv4Addr,
    ) -> io::Result<usize> {
        self.0.send_multicast_v4(buf, dest, ttl, iface).await
    }
}

/// A client's IPv4 beacon listener: **one wildcard socket** on a fixed port,
/// on every target.
///
/// pvxs's `UDPCollector` (`udp_collector.cpp:124-151`): bound to the
/// wildcard because only a wildcard (or group) bound socket receives a
/// joined group's datagrams, and shared with whatever server holds the port
/// (`SO_REUSEADDR` + `SO_REUSEPORT`). Its own type rather than a
/// [`SearchUdpSocket`] constructor: the host SEARCH socket is a per-NIC
/// bundle, and a bundle bound to unicast addresses can join a group but
/// never receive it.
pub struct BeaconUdpSocket(sys::Beacon);

impl BeaconUdpSocket {
    /// Bind `0.0.0.0:port`. `pump_name`/`pump_priority` describe the
    /// `exec_backend` receive thread, as on [`SearchUdpSocket::bind_ephemeral`].
    pub fn bind(
        port: u16,
        pump_name: &str,
        pump_priority: crate::runtime::task::ThreadPriority,
    ) -> io::Result<Self> {
        sys::Beacon::bind(port, pump_name, pump_priority).map(Self)
    }

    /// Join an IPv4 multicast group on the interface whose address is
    /// `iface` (`IP_ADD_MEMBERSHIP`); `0.0.0.0` lets the routing table
    /// choose, as pvxs's `INADDR_ANY` join does.
    pub fn join_multicast_v4(&self, group: Ipv4Addr, iface: Ipv4Addr) -> io::Result<()> {
        self.0.join_multicast_v4(group, iface)
    }

    /// The one bound address.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.0.local_addrs()
    }

    /// The next datagram, with its `IP_PKTINFO` where the platform reports it.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
        self.0.recv(buf).await
    }
}

/// A client's IPv6 UDP SEARCH or beacon socket, on **every** target.
///
/// Separate from [`SearchUdpSocket`] rather than a variant of it, because the
/// two families differ in what a socket *is* here and not only in the address
/// it carries: the v4 host arm is a per-NIC bundle with `IP_PKTINFO` receive
/// attribution and a `255.255.255.255` fanout, and v6 has none of the three —
/// no broadcast at all, one socket, and a multicast group that is the same
/// destination on every NIC. Folding them into one type would give four of its
/// methods a second meaning ("unsupported for this variant"), which is the
/// dual meaning both types exist to avoid. What they do share — the
/// `exec_backend` receive pump, its stop flag and its joining `Drop` — is
/// shared as code, not duplicated.
///
/// Both arms bind `IPV6_V6ONLY`, so this socket never sees the v4-mapped
/// traffic [`SearchUdpSocket`] already handles and the two never answer the
/// same datagram.
pub struct SearchUdpSocketV6(sys::SockV6);

impl SearchUdpSocketV6 {
    /// Bind an ephemeral v6 SEARCH socket.
    ///
    /// `pump_name`/`pump_priority` describe the `exec_backend` receive thread,
    /// exactly as on [`SearchUdpSocket::bind_ephemeral`]; the host arm has no
    /// thread and ignores them.
    ///
    /// A host with no IPv6 stack fails here — `EAFNOSUPPORT` from `socket()`,
    /// or `EADDRNOTAVAIL` from the bind. That is a normal condition and not an
    /// engine error: the caller drops to IPv4-only, which is why this returns
    /// the error rather than deciding the policy itself.
    pub fn bind_search(
        pump_name: &str,
        pump_priority: crate::runtime::task::ThreadPriority,
    ) -> io::Result<Self> {
        sys::SockV6::bind_search(pump_name, pump_priority).map(Self)
    }

    /// Bind a v6 beacon listener on `[::]:port`, sharing the port with
    /// whatever server already holds it (`SO_REUSEADDR` + `SO_REUSEPORT`).
    ///
    /// The v6 counterpart of [`BeaconUdpSocket::bind`], and shared for
    /// the same reason: pvxs puts every UDP socket through
    /// `epicsSocketEnableAddressUseForDatagramFanout`
    /// (`udp_collector.cpp:136`), which has no `_WIN32` carve-out.
    pub fn bind_beacon(
        port: u16,
        pump_name: &str,
        pump_priority: crate::runtime::task::ThreadPriority,
    ) -> io::Result<Self> {
        sys::SockV6::bind_beacon(port, pump_name, pump_priority).map(Self)
    }

    /// Join an IPv6 multicast group (`IPV6_JOIN_GROUP`).
    ///
    /// `iface` is a scope index; `0` lets the routing table choose, which is
    /// what a single wildcard socket has to do.
    pub fn join_multicast_v6(&self, group: Ipv6Addr, iface: u32) -> io::Result<()> {
        self.0.join_multicast_v6(group, iface)
    }

    /// `IPV6_MULTICAST_HOPS`. The v6 spelling of the v4 multicast TTL; pvxs
    /// sends its v6 multicast at hop limit 1 (link-local only).
    pub fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        self.0.set_multicast_hops_v6(hops)
    }

    /// [`SearchUdpSocket::send_multicast_v4`]'s v6 half: hop limit and egress
    /// interface index, `0` leaving the choice to the routing table.
    pub async fn send_multicast_v6(
        &self,
        buf: &[u8],
        dest: SocketAddrV6,
        hops: u32,
        index: u32,
    ) -> io::Result<usize> {
        if let Err(e) = self.0.prep_v6(hops, index) {
            prep_failed(&e, SocketAddr::V6(dest));
        }
        self.0.send_to(buf, SocketAddr::V6(dest)).await
    }

    /// Every local address this socket bound — one entry, both arms.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.0.local_addrs()
    }

    /// The next datagram.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
        self.0.recv(buf).await
    }

    /// Send one datagram to one destination.
    pub async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
        self.0.send_to(buf, dest).await
    }
}

/// pvxs logs a failed multicast option and sends anyway
/// (`evhelper.cpp:588-606`).
fn prep_failed(e: &io::Error, dest: SocketAddr) {
    tracing::debug!(
        target: "epics_base_rs::net",
        %dest,
        error = %e,
        "multicast TTL/IF prep failed"
    );
}

// ---------------------------------------------------------------------------
// Host: the per-NIC bundle, unchanged.
// ---------------------------------------------------------------------------

#[cfg(tokio_backend)]
mod sys {
    use super::{SearchDatagram, SocketAddr, io};
    use crate::net::async_udp_v4::{AsyncUdpV4, PortUse};

    pub(super) struct Sock(AsyncUdpV4);

    impl Sock {
        pub(super) fn bind_ephemeral(
            broadcast: bool,
            pump_name: &str,
            pump_priority: crate::runtime::task::ThreadPriority,
        ) -> io::Result<Self> {
            // No pump: the reactor is the pump.
            let _ = (pump_name, pump_priority);
            // *Same* ephemeral port on every NIC, not a port per NIC. A PVA
            // SEARCH advertises the port its reply must be sent to
            // (`response_port`, pvxs `udp_collector.cpp:380`), and a server
            // reached over NIC B would answer a port that only NIC A holds.
            // The exec arm has one port by construction; binding the bundle
            // this way makes `local_addrs().first()` a fact about the socket
            // on both arms rather than about which NIC happens to be first.
            // No reuse options, as pvxs `searchTx4` and libca `udpiiu`.
            AsyncUdpV4::bind_ephemeral_same_port(PortUse::Exclusive, broadcast).map(Self)
        }

        pub(super) fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
            self.0.set_recv_buffer_size(size)
        }

        pub(super) fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
            self.0.set_multicast_ttl_v4(ttl)
        }

        pub(super) fn enable_so_rxq_ovfl(&self) -> io::Result<()> {
            self.0.enable_so_rxq_ovfl()
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.0.local_addrs()
        }

        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            let (meta, drops) = self.0.recv_with_meta_with_drops(buf).await?;
            Ok(SearchDatagram {
                n: meta.n,
                src: meta.src,
                iface_ip: Some(meta.iface_ip),
                pktinfo: meta.dst_ip.map(|d| (d, meta.ifindex.unwrap_or(0))),
                drops,
            })
        }

        pub(super) async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
            self.0.send_to(buf, dest).await
        }

        pub(super) async fn fanout_to(
            &self,
            buf: &[u8],
            dest: SocketAddr,
            ifaces: &[std::net::Ipv4Addr],
        ) -> io::Result<usize> {
            if ifaces.is_empty() {
                return self.0.fanout_to(buf, dest).await;
            }
            let mut ok = 0usize;
            let mut last_err: Option<io::Error> = None;
            for ip in ifaces {
                // Loopback carries no broadcast, and a constrained list that
                // names only loopback yields no destination at all — which is
                // the operator asking for nothing to leave the host.
                if ip.is_loopback() {
                    continue;
                }
                match self.0.send_via(buf, dest, *ip).await {
                    Ok(_) => ok += 1,
                    Err(e) => last_err = Some(e),
                }
            }
            if ok == 0 {
                return Err(last_err.unwrap_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::AddrNotAvailable,
                        "SEARCH fanout: no listed interface available",
                    )
                }));
            }
            Ok(ok)
        }

        pub(super) async fn send_multicast_v4(
            &self,
            buf: &[u8],
            dest: std::net::SocketAddrV4,
            ttl: u32,
            iface: std::net::Ipv4Addr,
        ) -> io::Result<usize> {
            self.0.send_multicast_v4(buf, dest, ttl, iface).await
        }
    }

    pub(super) struct Beacon(tokio::net::UdpSocket);

    impl Beacon {
        pub(super) fn bind(
            port: u16,
            pump_name: &str,
            pump_priority: crate::runtime::task::ThreadPriority,
        ) -> io::Result<Self> {
            // No pump: the reactor is the pump.
            let _ = (pump_name, pump_priority);
            use socket2::{Domain, Protocol, Socket, Type};
            let sock = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            crate::net::fanout::PortUse::Shared.bind(
                &sock,
                SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port)),
                crate::net::fanout::PortOrigin::Configured,
            )?;
            sock.set_broadcast(true)?;
            sock.set_nonblocking(true)?;
            let sock = tokio::net::UdpSocket::from_std(sock.into())?;
            #[cfg(any(unix, windows))]
            crate::net::udp_rx::enable(&sock, false)?;
            Ok(Self(sock))
        }

        pub(super) fn join_multicast_v4(
            &self,
            group: std::net::Ipv4Addr,
            iface: std::net::Ipv4Addr,
        ) -> io::Result<()> {
            self.0.join_multicast_v4(group, iface)
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.0.local_addr().into_iter().collect()
        }

        #[cfg(any(unix, windows))]
        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            loop {
                self.0.readable().await?;
                match self.0.try_io(tokio::io::Interest::READABLE, || {
                    crate::net::udp_rx::recv(&self.0, buf)
                }) {
                    Ok(d) => {
                        return Ok(SearchDatagram {
                            n: d.len,
                            src: d.src,
                            iface_ip: None,
                            pktinfo: d.v4_pktinfo(),
                            drops: d.drops,
                        });
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                }
            }
        }

        #[cfg(not(any(unix, windows)))]
        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            let (n, src) = self.0.recv_from(buf).await?;
            Ok(SearchDatagram {
                n,
                src,
                iface_ip: None,
                pktinfo: None,
                drops: 0,
            })
        }
    }

    pub(super) struct SockV6(std::sync::Arc<tokio::net::UdpSocket>);

    impl SockV6 {
        pub(super) fn bind_search(
            pump_name: &str,
            pump_priority: crate::runtime::task::ThreadPriority,
        ) -> io::Result<Self> {
            // No pump: the reactor is the pump.
            let _ = (pump_name, pump_priority);
            let sock = new_v6_socket()?;
            // Link-local hop limit, matching pvxs's v6 send path
            // (`udp_collector.cpp`). Best-effort: a stack that refuses it still
            // reaches the link.
            let _ = sock.set_multicast_hops_v6(1);
            sock.bind(&v6_bind_addr(0).into())?;
            Self::adopt(sock)
        }

        pub(super) fn bind_beacon(
            port: u16,
            pump_name: &str,
            pump_priority: crate::runtime::task::ThreadPriority,
        ) -> io::Result<Self> {
            let _ = (pump_name, pump_priority);
            let sock = new_v6_socket()?;
            crate::net::fanout::PortUse::Shared.bind(
                &sock,
                v6_bind_addr(port),
                crate::net::fanout::PortOrigin::Configured,
            )?;
            Self::adopt(sock)
        }

        fn adopt(sock: socket2::Socket) -> io::Result<Self> {
            sock.set_nonblocking(true)?;
            let std_sock: std::net::UdpSocket = sock.into();
            tokio::net::UdpSocket::from_std(std_sock).map(|s| Self(std::sync::Arc::new(s)))
        }

        pub(super) fn join_multicast_v6(
            &self,
            group: std::net::Ipv6Addr,
            iface: u32,
        ) -> io::Result<()> {
            self.0.join_multicast_v6(&group, iface)
        }

        pub(super) fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
            socket2::SockRef::from(&*self.0).set_multicast_hops_v6(hops)
        }

        pub(super) fn prep_v6(&self, hops: u32, index: u32) -> io::Result<()> {
            crate::net::mcast_prep_v6(&*self.0, hops, index)
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.0.local_addr().into_iter().collect()
        }

        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            let (n, src) = self.0.recv_from(buf).await?;
            Ok(SearchDatagram {
                n,
                src,
                // `IP_PKTINFO` attribution is the v4 bundle's; a single v6
                // socket reports no receiving NIC, the same `None` the exec
                // arm reports for the same reason.
                iface_ip: None,
                pktinfo: None,
                drops: 0,
            })
        }

        pub(super) async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
            self.0.send_to(buf, dest).await
        }
    }

    /// An unbound `AF_INET6` datagram socket with `IPV6_V6ONLY` already set.
    ///
    /// Unbound, because `IPV6_V6ONLY` only takes effect before the bind — the
    /// same ordering constraint the v4 arm's shared-port bind has, and the
    /// reason neither family can use `std::net::UdpSocket::bind`, which binds
    /// as it constructs.
    fn new_v6_socket() -> io::Result<socket2::Socket> {
        use socket2::{Domain, Protocol, Socket, Type};
        let sock = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        sock.set_only_v6(true)?;
        Ok(sock)
    }

    fn v6_bind_addr(port: u16) -> SocketAddr {
        SocketAddr::V6(std::net::SocketAddrV6::new(
            std::net::Ipv6Addr::UNSPECIFIED,
            port,
            0,
            0,
        ))
    }
}

// ---------------------------------------------------------------------------
// Exec backend: one wildcard socket + one receive pump.
// ---------------------------------------------------------------------------

#[cfg(exec_backend)]
mod sys {
    use super::{Ipv4Addr, SearchDatagram, SocketAddr, io};
    #[cfg(unix)]
    use crate::net::fanout::{PortOrigin, bind_fanout};
    use crate::runtime::task::{StackSizeClass, ThreadPriority, spawn_dedicated_thread};
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// How long a blocking `recv_from` may sit before the pump re-reads the
    /// stop flag. Only a clean-stop seam — the same 200 ms the blocking CA
    /// server's SEARCH responder uses, and invisible to the protocol.
    const PUMP_WAKE_INTERVAL: Duration = Duration::from_millis(200);

    /// IPv4's maximum datagram, matching every other SEARCH receive buffer in
    /// the workspace.
    const RECV_BUF: usize = 64 * 1024;

    /// A v4 `IP_PKTINFO`: the destination and the arrival interface index.
    type PktInfo = (Ipv4Addr, u32);

    /// One datagram the pump read: bytes, source, `IP_PKTINFO`.
    type Pumped = (Vec<u8>, SocketAddr, Option<PktInfo>);

    pub(super) struct Sock {
        /// Shared with the pump thread. `Arc`, not `try_clone`: a `dup(2)` on
        /// a libbsd socket fails `ENXIO` on `armv7-rtems-eabihf`.
        socket: Arc<UdpSocket>,
        /// Datagrams the pump has read, awaiting the engine.
        rx: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Pumped>>,
        /// Set by `Drop`; the pump observes it between `recv_from` calls.
        stop: Arc<AtomicBool>,
        /// The pump thread, joined by `Drop`. `Option` only so `Drop` can
        /// `take` it; it is `Some` for the whole life of a constructed `Sock`.
        pump: Option<std::thread::JoinHandle<()>>,
    }

    impl Sock {
        pub(super) fn bind_ephemeral(
            broadcast: bool,
            pump_name: &str,
            pump_priority: ThreadPriority,
        ) -> io::Result<Self> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            if broadcast {
                socket.set_broadcast(true)?;
            }
            Self::with_pump(socket, pump_name, pump_priority)
        }

        /// The half every constructor shares: give the socket its stop-poll
        /// cadence and start the one thread that reads it.
        fn with_pump(
            socket: UdpSocket,
            pump_name: &str,
            pump_priority: ThreadPriority,
        ) -> io::Result<Self> {
            // `SO_RCVTIMEO`, fatal — the same call and the same fatality the
            // blocking PVA server's UDP responder makes
            // (`server_native::blocking`, `UDP_STOP_TICK`), which runs on the
            // embedded target. This socket sets no `SO_SNDTIMEO`: a UDP
            // `send_to` does not block on a peer.
            socket.set_read_timeout(Some(PUMP_WAKE_INTERVAL))?;
            #[cfg(all(not(epics_embedded_target), any(unix, windows)))]
            crate::net::udp_rx::enable(&socket, socket.local_addr()?.is_ipv6())?;
            let socket = Arc::new(socket);

            let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
            let stop = Arc::new(AtomicBool::new(false));
            let pump_socket = Arc::clone(&socket);
            let pump_stop = Arc::clone(&stop);
            // `epicsThreadStackMedium`, which is what libca asks for
            // (`udpiiu.cpp:129`). Ours does strictly less than C's CAC-UDP —
            // it copies bytes to a channel where C runs the whole response
            // callback on this stack — but there is one such thread per
            // socket and a client holds at most two, so matching C costs
            // nothing worth deviating for.
            let pump = spawn_dedicated_thread(
                pump_name.to_string(),
                pump_priority,
                StackSizeClass::Medium,
                move || pump(&pump_socket, &pump_stop, &tx),
            )?;

            Ok(Self {
                socket,
                rx: tokio::sync::Mutex::new(rx),
                stop,
                pump: Some(pump),
            })
        }

        pub(super) fn set_recv_buffer_size(&self, size: usize) -> io::Result<()> {
            set_int_opt(
                &self.socket,
                sockopt::SOL_SOCKET,
                sockopt::SO_RCVBUF,
                size as _,
            )
        }

        pub(super) fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
            set_int_opt(
                &self.socket,
                sockopt::IPPROTO_IP,
                sockopt::IP_MULTICAST_TTL,
                ttl as _,
            )
        }

        pub(super) fn enable_so_rxq_ovfl(&self) -> io::Result<()> {
            // `SO_RXQ_OVFL` is a Linux cmsg facility read via `recvmsg`, and
            // this arm's receive path is `recv_from`. Reporting Ok here with
            // `SearchDatagram::drops` always 0 would claim a counter that is
            // never read, so it reports the honest thing instead: the
            // diagnostic is unsupported, which every caller already treats as
            // non-fatal.
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "SO_RXQ_OVFL needs a recvmsg receive path; this SEARCH socket uses recv_from",
            ))
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.socket.local_addr().into_iter().collect()
        }

        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            let Some((bytes, src, pktinfo)) = self.rx.lock().await.recv().await else {
                return Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "SEARCH receive pump stopped",
                ));
            };
            // Truncate as `recvfrom(2)` truncates.
            let n = bytes.len().min(buf.len());
            buf[..n].copy_from_slice(&bytes[..n]);
            Ok(SearchDatagram {
                n,
                src,
                iface_ip: None,
                pktinfo,
                drops: 0,
            })
        }

        pub(super) async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
            self.socket.send_to(buf, dest)
        }

        pub(super) async fn fanout_to(
            &self,
            buf: &[u8],
            dest: SocketAddr,
            ifaces: &[Ipv4Addr],
        ) -> io::Result<usize> {
            // One socket cannot pick its egress NIC by binding, so the
            // destination does it: each interface's own directed broadcast
            // leaves via that interface by ordinary routing. This is what
            // libca sends to in the first place — `EPICS_CA_AUTO_ADDR_LIST`
            // is exactly this list — so the expansion is C's own, not a
            // substitute for one. `ifaces` narrows which interfaces
            // contribute, the same constraint the host arm applies by
            // choosing which NIC's socket transmits.
            let port = dest.port();
            let dests: Vec<SocketAddr> = match dest {
                SocketAddr::V4(v4) if v4.ip().is_broadcast() => eligible_broadcast_addrs(ifaces)
                    .into_iter()
                    .map(|ip| SocketAddr::from((ip, port)))
                    .collect(),
                // A multicast group has no per-interface rewrite: the group
                // address *is* the destination on every NIC, and one socket
                // emits on the routing table's choice. Sending it once is all
                // this arm can do.
                _ => vec![dest],
            };
            let mut ok = 0usize;
            let mut last_err: Option<io::Error> = None;
            for d in dests {
                match self.socket.send_to(buf, d) {
                    Ok(_) => ok += 1,
                    Err(e) => {
                        tracing::debug!(
                            target: "epics_base_rs::net",
                            dest = %d,
                            error = %e,
                            "SEARCH fanout send failed"
                        );
                        last_err = Some(e);
                    }
                }
            }
            if ok == 0 {
                return Err(last_err.unwrap_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::AddrNotAvailable,
                        "SEARCH fanout: no eligible broadcast destination",
                    )
                }));
            }
            Ok(ok)
        }

        pub(super) async fn send_multicast_v4(
            &self,
            buf: &[u8],
            dest: std::net::SocketAddrV4,
            ttl: u32,
            iface: Ipv4Addr,
        ) -> io::Result<usize> {
            if let Err(e) = crate::net::mcast_prep_v4(&*self.socket, ttl, iface) {
                super::prep_failed(&e, SocketAddr::V4(dest));
            }
            self.socket.send_to(buf, dest)
        }
    }

    impl Drop for Sock {
        /// Stop the pump and **wait for it**, so that the socket is closed
        /// before `drop` returns.
        ///
        /// # Invariant
        ///
        /// **A dropped `SearchUdpSocket` MUST hold no port.** The pump shares
        /// ownership of the socket (`Arc`), so the fd outlives this `drop` by
        /// however long the pump takes to notice the stop flag unless `drop`
        /// waits — and a caller that drops one SEARCH socket and binds the
        /// same port again then loses the race with its own teardown. Joining
        /// here makes the release happen by construction rather than
        /// eventually.
        ///
        /// The wait is bounded by [`PUMP_WAKE_INTERVAL`]: the socket carries
        /// that as its read timeout, so the pump re-reads the flag at least
        /// that often. There is no cheaper wake — `shutdown(2)` on an
        /// unconnected `SOCK_DGRAM` reports `ENOTCONN` on Linux and does not
        /// interrupt the blocked `recvfrom`.
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Release);
            if let Some(pump) = self.pump.take() {
                let _ = pump.join();
            }
        }
    }

    /// The beacon listener, over the same pump.
    pub(super) struct Beacon(Sock);

    impl Beacon {
        pub(super) fn bind(
            port: u16,
            pump_name: &str,
            pump_priority: ThreadPriority,
        ) -> io::Result<Self> {
            let socket = bind_shared_port(port)?;
            socket.set_broadcast(true)?;
            Sock::with_pump(socket, pump_name, pump_priority).map(Self)
        }

        pub(super) fn join_multicast_v4(&self, group: Ipv4Addr, iface: Ipv4Addr) -> io::Result<()> {
            self.0.socket.join_multicast_v4(&group, &iface)
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.0.local_addrs()
        }

        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            self.0.recv(buf).await
        }
    }

    /// The IPv6 socket, over the same pump.
    ///
    /// A newtype over [`Sock`] rather than a second struct: the pump thread,
    /// its stop flag, the unbounded channel and the joining `Drop` are
    /// address-family neutral, and duplicating them would give the port-release
    /// invariant two implementations to hold. Only the bind and the two
    /// multicast options differ, and those are what this type adds.
    pub(super) struct SockV6(Sock);

    impl SockV6 {
        pub(super) fn bind_search(
            pump_name: &str,
            pump_priority: ThreadPriority,
        ) -> io::Result<Self> {
            let socket = bind_v6(0, false)?;
            let sock = Sock::with_pump(socket, pump_name, pump_priority)?;
            let this = Self(sock);
            // Link-local hop limit, as pvxs sends v6 multicast. Best-effort:
            // a stack that refuses the option still reaches the link.
            let _ = this.set_multicast_hops_v6(1);
            Ok(this)
        }

        pub(super) fn bind_beacon(
            port: u16,
            pump_name: &str,
            pump_priority: ThreadPriority,
        ) -> io::Result<Self> {
            let socket = bind_v6(port, true)?;
            Sock::with_pump(socket, pump_name, pump_priority).map(Self)
        }

        pub(super) fn join_multicast_v6(
            &self,
            group: std::net::Ipv6Addr,
            iface: u32,
        ) -> io::Result<()> {
            self.0.socket.join_multicast_v6(&group, iface)
        }

        pub(super) fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
            set_int_opt(
                &self.0.socket,
                sockopt::IPPROTO_IPV6,
                sockopt::IPV6_MULTICAST_HOPS,
                hops as _,
            )
        }

        pub(super) fn prep_v6(&self, hops: u32, index: u32) -> io::Result<()> {
            crate::net::mcast_prep_v6(&*self.0.socket, hops, index)
        }

        pub(super) fn local_addrs(&self) -> Vec<SocketAddr> {
            self.0.local_addrs()
        }

        pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<SearchDatagram> {
            self.0.recv(buf).await
        }

        pub(super) async fn send_to(&self, buf: &[u8], dest: SocketAddr) -> io::Result<usize> {
            self.0.send_to(buf, dest).await
        }
    }

    /// An `AF_INET6` datagram socket bound to `[::]:port`, with `IPV6_V6ONLY`
    /// set **before** the bind, which is the only point at which it takes
    /// effect, and for a shared listener the reuse options ordered by
    /// [`bind_fanout`].
    ///
    /// Hand-rolled for that ordering, the same reason as [`bind_shared_port`]. `IPV6_V6ONLY` is not optional here: without it a
    /// dual-stack bind would take the v4-mapped copy of traffic the v4 SEARCH
    /// socket is already receiving, and the engine would see every reply twice.
    #[cfg(unix)]
    fn bind_v6(port: u16, share: bool) -> io::Result<UdpSocket> {
        use std::os::fd::FromRawFd;
        // SAFETY: `socket()` returns a fresh owned fd or -1.
        let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // Owned immediately, so every early return below closes it via `Drop`.
        // SAFETY: `fd` is a valid, exclusively-owned socket fd just returned.
        let socket = unsafe { UdpSocket::from_raw_fd(fd) };
        set_int_opt(&socket, sockopt::IPPROTO_IPV6, sockopt::IPV6_V6ONLY, 1)?;
        // Zeroed rather than field-by-field: `sin6_len` exists on the BSD
        // targets and not on Linux, and all-zero is valid for both.
        // SAFETY: `sockaddr_in6` is plain-old-data.
        let mut sin6: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        sin6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        sin6.sin6_port = port.to_be();
        let bind = || {
            // SAFETY: `sin6` is fully initialized and the length is exact.
            let rc = unsafe {
                libc::bind(
                    fd,
                    std::ptr::addr_of!(sin6).cast(),
                    std::mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t,
                )
            };
            if rc != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        };
        if share {
            bind_fanout(port, PortOrigin::Configured, || set_fanout(&socket), bind)?;
        } else {
            bind()?;
        }
        Ok(socket)
    }

    #[cfg(not(unix))]
    fn bind_v6(_port: u16, _share: bool) -> io::Result<UdpSocket> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "IPv6 bind on a non-Unix exec-backend socket",
        ))
    }

    /// The directed broadcast of every eligible interface, narrowed to
    /// `ifaces` when that list is non-empty.
    ///
    /// Eligibility and the destination choice are
    /// [`crate::net::iface_v4::IfaceV4::search_destination`]'s — C's own rule
    /// (`osdNetIfAddrs.c:130-151`) — so a down or loopback interface
    /// contributes nothing whether or not the operator listed it.
    fn eligible_broadcast_addrs(ifaces: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
        if ifaces.is_empty() {
            return crate::net::iface_v4::broadcast_addrs();
        }
        let Ok(all) = crate::net::iface_v4::enumerate() else {
            return Vec::new();
        };
        let mut out: Vec<Ipv4Addr> = Vec::new();
        for iface in all {
            if !ifaces.contains(&iface.ip) {
                continue;
            }
            if let Some(dest) = iface.search_destination() {
                if !out.contains(&dest) {
                    out.push(dest);
                }
            }
        }
        out
    }

    /// Read datagrams until asked to stop or the receiver is gone; a recv
    /// error is reported and the loop goes on, as libca's does.
    fn pump(
        socket: &UdpSocket,
        stop: &AtomicBool,
        tx: &tokio::sync::mpsc::UnboundedSender<Pumped>,
    ) {
        let mut buf = vec![0u8; RECV_BUF];
        while !stop.load(Ordering::Acquire) {
            match recv_with_pktinfo(socket, &mut buf) {
                Ok((n, src, pktinfo)) => {
                    if tx.send((buf[..n].to_vec(), src, pktinfo)).is_err() {
                        return;
                    }
                }
                Err(e) if is_wake_timeout(e.kind()) => continue,
                // libca `udpiiu.cpp:1090-1120` and C `cast_server.c:171-179`
                // both keep receiving after a UDP error: an earlier SEARCH
                // drawing an ICMP port-unreachable surfaces here as
                // ECONNREFUSED/ECONNRESET on the *next* recv and says nothing
                // about this socket's health.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                // `udpiiu.cpp:434`, and the loop goes on.
                Err(e) => crate::runtime::log::errlog_vprintf(format_args!(
                    "CAC: UDP recv {} was \"{}\"\n",
                    crate::runtime::log::erl_error(),
                    crate::net::sock_err_string(&e)
                )),
            }
        }
    }

    /// One datagram and its v4 `IP_PKTINFO`, through the one receive path
    /// that reads it where the build has it.
    #[cfg(all(not(epics_embedded_target), any(unix, windows)))]
    fn recv_with_pktinfo(
        socket: &UdpSocket,
        buf: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, Option<PktInfo>)> {
        let d = crate::net::udp_rx::recv(socket, buf)?;
        Ok((d.len, d.src, d.v4_pktinfo()))
    }

    #[cfg(not(all(not(epics_embedded_target), any(unix, windows))))]
    fn recv_with_pktinfo(
        socket: &UdpSocket,
        buf: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, Option<PktInfo>)> {
        let (n, src) = socket.recv_from(buf)?;
        Ok((n, src, None))
    }

    /// A read-timeout expiry, which is a wake and not an error.
    ///
    /// Two kinds because a timed-out socket read reports `EAGAIN` on some
    /// platforms and `EWOULDBLOCK` on others, and Rust maps them to different
    /// `ErrorKind`s.
    fn is_wake_timeout(kind: io::ErrorKind) -> bool {
        matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }

    #[cfg(unix)]
    mod sockopt {
        pub(super) const SOL_SOCKET: libc::c_int = libc::SOL_SOCKET;
        pub(super) const SO_RCVBUF: libc::c_int = libc::SO_RCVBUF;
        pub(super) const IPPROTO_IP: libc::c_int = libc::IPPROTO_IP;
        pub(super) const IP_MULTICAST_TTL: libc::c_int = libc::IP_MULTICAST_TTL;
        pub(super) const IPPROTO_IPV6: libc::c_int = libc::IPPROTO_IPV6;
        pub(super) const IPV6_V6ONLY: libc::c_int = libc::IPV6_V6ONLY;
        pub(super) const IPV6_MULTICAST_HOPS: libc::c_int = libc::IPV6_MULTICAST_HOPS;
    }

    /// Bind the wildcard address on a well-known port that a server on this
    /// host already holds.
    ///
    /// Hand-rolled because on a configured number `SO_REUSEADDR`/`SO_REUSEPORT`
    /// have to be set *before* the bind ([`bind_fanout`]) and
    /// `std::net::UdpSocket::bind` binds as it constructs.
    #[cfg(unix)]
    fn bind_shared_port(port: u16) -> io::Result<UdpSocket> {
        use std::os::fd::FromRawFd;
        // SAFETY: `socket()` returns a fresh owned fd or -1.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // Owned immediately, so every early return below closes it via `Drop`.
        // SAFETY: `fd` is a valid, exclusively-owned socket fd just returned.
        let socket = unsafe { UdpSocket::from_raw_fd(fd) };
        // Zeroed rather than field-by-field: `sin_len` exists on the BSD
        // targets and not on Linux, and all-zero is valid for both.
        // SAFETY: `sockaddr_in` is plain-old-data.
        let mut sin: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        sin.sin_family = libc::AF_INET as libc::sa_family_t;
        sin.sin_port = port.to_be();
        bind_fanout(
            port,
            PortOrigin::Configured,
            || set_fanout(&socket),
            || {
                // SAFETY: `sin` is fully initialized and the length is exact.
                let rc = unsafe {
                    libc::bind(
                        fd,
                        std::ptr::addr_of!(sin).cast(),
                        std::mem::size_of::<libc::sockaddr_in>() as libc::socklen_t,
                    )
                };
                if rc != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            },
        )?;
        Ok(socket)
    }

    /// `SO_REUSEADDR` + `SO_REUSEPORT`, both or the error.
    #[cfg(unix)]
    fn set_fanout(socket: &UdpSocket) -> io::Result<()> {
        set_int_opt(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set_int_opt(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    #[cfg(not(unix))]
    fn bind_shared_port(_port: u16) -> io::Result<UdpSocket> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "port-sharing bind on a non-Unix exec-backend socket",
        ))
    }

    #[cfg(unix)]
    fn set_int_opt(
        socket: &UdpSocket,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the fd is owned by `socket` and outlives the call; `value`
        // is a live `c_int` and the length matches it exactly.
        let rc = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                std::ptr::addr_of!(value).cast(),
                std::mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    // A non-Unix exec backend is a host `EPICS_RS_BUILD_EXEC_BACKEND=thread`
    // build on Windows: it exists to run the target's *scheduling* shape on a
    // developer's machine, not its socket options. Both options this arm sets
    // are performance/reach tuning that the SEARCH protocol does not depend
    // on, so they report unsupported rather than pulling in a second
    // platform's setsockopt spelling.
    #[cfg(not(unix))]
    mod sockopt {
        pub(super) const SOL_SOCKET: i32 = 0;
        pub(super) const SO_RCVBUF: i32 = 0;
        pub(super) const IPPROTO_IP: i32 = 0;
        pub(super) const IP_MULTICAST_TTL: i32 = 0;
        pub(super) const IPPROTO_IPV6: i32 = 0;
        pub(super) const IPV6_V6ONLY: i32 = 0;
        pub(super) const IPV6_MULTICAST_HOPS: i32 = 0;
    }

    #[cfg(not(unix))]
    fn set_int_opt(_socket: &UdpSocket, _level: i32, _name: i32, _value: i32) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "socket options on a non-Unix exec-backend SEARCH socket",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::task::ThreadPriority;

    fn bind() -> SearchUdpSocket {
        SearchUdpSocket::bind_ephemeral(true, "test-CAC-UDP", ThreadPriority::Medium)
            .expect("bind ephemeral SEARCH socket")
    }

    /// The property the whole stage exists for: a SEARCH socket binds on this
    /// backend, whichever backend it is.
    #[epics_macros_rs::epics_test]
    async fn binds_and_reports_a_local_address() {
        let sock = bind();
        let addrs = sock.local_addrs();
        assert!(!addrs.is_empty(), "a bound SEARCH socket has an address");
        for a in &addrs {
            assert_ne!(a.port(), 0, "ephemeral bind assigns a real port: {a}");
        }
    }

    /// A fixed-port beacon listener binds and reports that port, on either
    /// arm — the property the PVA client's optional beacon socket needs, and
    /// the one the exec arm's hand-rolled `SO_REUSEPORT` bind exists for.
    #[epics_macros_rs::epics_test]
    async fn beacon_binds_the_port_it_was_given() {
        // Ephemeral first, only to learn a port nothing else on this machine
        // holds; dropped before the beacon claims it.
        let port = {
            let probe = bind();
            probe
                .local_addrs()
                .iter()
                .find(|a| a.is_ipv4())
                .expect("an IPv4 SEARCH address")
                .port()
        };
        let beacon = BeaconUdpSocket::bind(port, "test-BEACON", ThreadPriority::Medium)
            .expect("beacon bind");
        assert!(
            beacon.local_addrs().iter().any(|a| a.port() == port),
            "a beacon listener must bind the port it was given; got {:?}",
            beacon.local_addrs()
        );
    }

    /// A group joined on an interface reaches the beacon socket, loopback
    /// included, as on pvxs's wildcard collector: a socket bound to a NIC's
    /// unicast address takes the membership but never the group's datagrams.
    #[epics_macros_rs::epics_test]
    async fn a_joined_group_reaches_the_beacon_socket() {
        let group = Ipv4Addr::new(224, 0, 9, 41);
        let beacon =
            BeaconUdpSocket::bind(0, "test-BEACON", ThreadPriority::Medium).expect("beacon bind");
        let port = beacon.local_addrs()[0].port();
        beacon
            .join_multicast_v4(group, Ipv4Addr::LOCALHOST)
            .expect("join on loopback");
        let tx = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("tx");
        socket2::SockRef::from(&tx)
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .expect("multicast if");
        tx.set_multicast_loop_v4(true).expect("multicast loop");
        tx.send_to(b"BEACON", (group, port)).expect("send");
        let mut buf = [0u8; 64];
        let dg =
            crate::runtime::task::timeout(std::time::Duration::from_secs(5), beacon.recv(&mut buf))
                .await
                .expect("the group's datagram arrives")
                .expect("recv");
        assert_eq!(&buf[..dg.n], b"BEACON");
        #[cfg(target_os = "linux")]
        assert_eq!(
            dg.pktinfo.map(|p| p.0),
            Some(group),
            "IP_PKTINFO destination"
        );
    }

    /// The search socket sets no reuse option, as pvxs `searchTx4` and libca
    /// `udpiiu`: a fanout socket cannot join its port and take its replies.
    #[epics_macros_rs::epics_test]
    async fn a_fanout_socket_cannot_join_the_search_port() {
        let sock = bind();
        let addrs: Vec<SocketAddr> = sock
            .local_addrs()
            .into_iter()
            .filter(|a| a.is_ipv4())
            .collect();
        assert!(!addrs.is_empty(), "an IPv4 SEARCH address");
        for addr in addrs {
            let s = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::DGRAM,
                Some(socket2::Protocol::UDP),
            )
            .unwrap();
            s.set_reuse_address(true).unwrap();
            #[cfg(unix)]
            s.set_reuse_port(true).unwrap();
            assert!(
                s.bind(&addr.into()).is_err(),
                "a fanout socket joined {addr}"
            );
        }
    }

    /// Round-trip one datagram through the arm this build selected — the
    /// receive path is a reactor registration on one backend and a pump thread
    /// on the other, and this is the assertion that does not care which.
    #[epics_macros_rs::epics_test]
    async fn round_trips_a_datagram_to_itself() {
        let sock = bind();
        let port = sock
            .local_addrs()
            .iter()
            .find(|a| a.is_ipv4())
            .expect("an IPv4 SEARCH address")
            .port();
        let dest = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));

        sock.send_to(b"CA-SEARCH", dest).await.expect("send_to");
        let mut buf = [0u8; 64];
        let dg =
            crate::runtime::task::timeout(std::time::Duration::from_secs(5), sock.recv(&mut buf))
                .await
                .expect("a datagram sent to ourselves arrives")
                .expect("recv");
        assert_eq!(&buf[..dg.n], b"CA-SEARCH");
        assert_eq!(dg.drops, 0, "a single quiet datagram overflows nothing");
    }

    // ── IPv6 ────────────────────────────────────────────────────────────

    /// The v6 cases need an IPv6 stack and a routable `::1`; a host without
    /// them fails here, because an early return would score as a pass.
    fn bind_v6() -> SearchUdpSocketV6 {
        SearchUdpSocketV6::bind_search("test-PVAC-UDP6", ThreadPriority::Medium)
            .expect("these tests need an IPv6 stack (and `::1` on loopback)")
    }

    /// The v6 counterpart of [`binds_and_reports_a_local_address`], and the
    /// property this whole type was added for: on `exec_backend` the answer
    /// used to be "no socket exists", by construction.
    #[epics_macros_rs::epics_test]
    async fn v6_binds_and_reports_a_local_address() {
        let sock = bind_v6();
        let addrs = sock.local_addrs();
        assert!(!addrs.is_empty(), "a bound v6 SEARCH socket has an address");
        for a in &addrs {
            assert!(a.is_ipv6(), "an AF_INET6 bind reports a v6 address: {a}");
            assert_ne!(a.port(), 0, "ephemeral bind assigns a real port: {a}");
        }
    }

    /// Round-trip over `::1`, through whichever receive path this build
    /// selected — the reactor on one arm, the shared pump thread on the other.
    #[epics_macros_rs::epics_test]
    async fn v6_round_trips_a_datagram_to_itself() {
        let sock = bind_v6();
        let port = sock.local_addrs()[0].port();
        let dest = SocketAddr::from((Ipv6Addr::LOCALHOST, port));

        sock.send_to(b"PVA-SEARCH6", dest)
            .await
            .expect("`::1` must be routable on this host");
        let mut buf = [0u8; 64];
        let dg =
            crate::runtime::task::timeout(std::time::Duration::from_secs(5), sock.recv(&mut buf))
                .await
                .expect("a datagram sent to ourselves arrives")
                .expect("recv");
        assert_eq!(&buf[..dg.n], b"PVA-SEARCH6");
        assert_eq!(
            dg.iface_ip, None,
            "a single v6 socket attributes no receiving NIC"
        );
    }

    /// `IPV6_V6ONLY` holds, which is what keeps the v6 SEARCH socket out of
    /// the v4 port space the v4 SEARCH socket owns.
    ///
    /// Asserted through behaviour rather than by reading the option back, and
    /// twice, because either witness alone can pass vacuously: the same port
    /// must still be *bindable* in the v4 family (a dual-stack `[::]` bind
    /// reserves both, so this is `EADDRINUSE` when the option is lost), and a
    /// v4 datagram delivered to it must leave the v6 socket silent.
    #[epics_macros_rs::epics_test]
    async fn v6_socket_does_not_take_v4_mapped_traffic() {
        // The v4 bind below can fail for two unrelated reasons: the v6 socket
        // reserved both halves (the defect under test), or some unrelated
        // process already holds that number in the v4 space — the kernel
        // picks the v6 ephemeral port from the v6 space and does not consult
        // the v4 one. Only the first reproduces on every port, so try several
        // and let the assertion speak for the cause that survives them all.
        const PORTS: usize = 8;
        let mut held = None;
        for attempt in 1..=PORTS {
            let v6 = bind_v6();
            let port = v6.local_addrs()[0].port();
            match std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, port)) {
                Ok(v4) => {
                    held = Some((v6, v4, port));
                    break;
                }
                Err(e) => assert!(
                    attempt < PORTS,
                    "the v4 half of the port was unavailable on all {PORTS} ports tried, so \
                     this is not an unrelated v4 socket: the v6 SEARCH socket bound \
                     dual-stack and IPV6_V6ONLY was lost ({e})"
                ),
            }
        }
        let (v6, v4, port) = held.expect("the loop either bound or asserted");
        v4.set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .expect("read timeout");

        let dest = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
        v4.send_to(b"V4-ONLY", dest).expect("v4 send_to");

        // Blocking, but the datagram is already queued by the send above, so
        // this returns without parking anything.
        let mut buf = [0u8; 64];
        let (n, _) = v4
            .recv_from(&mut buf)
            .expect("the v4 socket receives its own datagram");
        assert_eq!(&buf[..n], b"V4-ONLY");

        let mut v6buf = [0u8; 64];
        let leaked = crate::runtime::task::timeout(
            std::time::Duration::from_millis(300),
            v6.recv(&mut v6buf),
        )
        .await;
        assert!(
            leaked.is_err(),
            "IPV6_V6ONLY must keep the v4-mapped copy off the v6 socket"
        );
    }
}
