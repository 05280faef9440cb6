using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>What a port knows of one peer's socket, as a value.</summary>
/// <param name="Address">The peer, and how its checksums are meant to be checked.</param>
/// <param name="IcrcChecksFull">Packets of this peer whose ICRC was checked with all 32 bits.</param>
/// <param name="IcrcChecksSolved">Packets whose IPv4 identification had to be solved: 16 bits were checked.</param>
/// <param name="WindowBytes">What may be on its way to the peer.</param>
/// <param name="InFlightBytes">What is.</param>
public readonly record struct PeerStatus(
    AddressVector Address, long IcrcChecksFull, long IcrcChecksSolved, long WindowBytes, long InFlightBytes)
{
    /// <summary>Every packet of this peer that was accepted had all 32 bits of its ICRC checked.</summary>
    public bool IsIcrcCheckFull => Address.Icrc != IcrcMode.SolveIdentification && IcrcChecksSolved == 0;
}
