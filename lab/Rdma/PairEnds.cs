using System.Net;

namespace Wayleave.Lab.Rdma;

/// <summary>What a queue pair has to know of both ends.</summary>
/// <param name="GidIndex">Our own address in the device's table.</param>
/// <param name="Psn">First PSN of our requests.</param>
/// <param name="Peer">The peer's address.</param>
/// <param name="PeerQueuePair">Its number.</param>
/// <param name="PeerPsn">First PSN of its requests.</param>
/// <param name="PathMtu">Bytes.</param>
internal readonly record struct PairEnds(
    int GidIndex, uint Psn, IPAddress Peer, uint PeerQueuePair, uint PeerPsn, int PathMtu);
