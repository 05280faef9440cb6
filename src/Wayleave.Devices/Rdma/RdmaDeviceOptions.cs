using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>Hears about memory. The bytes are only those of the call.</summary>
public delegate void MemoryHint(ReadOnlySpan<byte> bytes);

/// <summary>
/// Makes the bytes survive a power failure, as far as the memory can. Inside a gate, under the port token: 64 KiB at
/// most, and it returns at once.
/// </summary>
public delegate Errno MemoryPersist(ReadOnlySpan<byte> bytes);

/// <summary>How an RDMA device is made. Copied at construction.</summary>
public sealed record RdmaDeviceOptions
{
    /// <summary>
    /// The most segments that any kernel sends in one super-packet (<c>UDP_MAX_SEGMENTS</c> from Linux 6.8 on).
    /// </summary>
    public const int SuperPacketSegmentsMax = 128;

    /// <summary>The most ports of a device.</summary>
    public const int PortsMax = 8;

    /// <summary>Port 1: the address packets are sent from and accepted at.</summary>
    public Gid Gid { get; init; } = Gid.FromIPv4(0x7F000001);

    /// <summary>Port 1: UDP port packets leave from, part of their ICRC.</summary>
    public ushort UdpPort { get; init; } = Verbs.AddressVector.RoceUdpPort;

    /// <summary>Ports 2 and up, each with an address of its own; none unless set.</summary>
    public IReadOnlyList<PortAddress> FurtherPorts { get; init; } = [];

    /// <summary>The longest datagram of a UD queue pair, and the largest path MTU of a connection.</summary>
    public Verbs.PathMtu PortMtu { get; init; } = Verbs.PathMtu.Mtu4096;

    /// <summary>Largest super-packet handed out, in bytes; a UDP datagram over IPv4 carries 65507.</summary>
    public int SuperPacketBytes { get; init; } = 65507;

    /// <summary>Most segments of a super-packet (<c>UDP_MAX_SEGMENTS</c> of older kernels).</summary>
    public int SuperPacketSegments { get; init; } = 64;

    /// <summary>
    /// Outstanding bytes per destination whose receive buffer is not known, each datagram charged with
    /// <see cref="DatagramChargeBytes"/> more. The default fits the receive buffer that an unprivileged Linux user may
    /// ask for (net.core.rmem_max).
    /// </summary>
    public int WindowBytes { get; init; } = 352 * 1024;

    /// <summary>The same for READ responses on their way to our own socket.</summary>
    public int ReadWindowBytes { get; init; } = 352 * 1024;

    /// <summary>
    /// The same as long as nothing has come since the socket was found empty
    /// (<see cref="RdmaPort.HandleEmptySocket"/>): not less than <see cref="ReadWindowBytes"/>, which it is when null.
    /// </summary>
    // Linux gives back what was read from a socket up to a quarter of its buffer late, but all of it when nothing is
    // left to read (udp_rmem_release). What is asked for then finds the whole buffer free.
    public int? ReadWindowEmptyBytes { get; init; }

    /// <summary>What a datagram costs the receiver's socket besides its bytes.</summary>
    public int DatagramChargeBytes { get; init; } = 900;

    /// <summary>
    /// A READ is asked for in pieces of this size, so that its response fits the window of the own socket.
    /// </summary>
    public int ReadRequestBytes { get; init; } = 128 * 1024;

    /// <summary>
    /// An acknowledgement is asked for after this share of the window at the latest; for a while after a loss, after
    /// half of it.
    /// </summary>
    public int AcknowledgeShare { get; init; } = 4;

    /// <summary>
    /// So many queue pairs to one destination send the first packets of their messages in one super-packet, if they are
    /// ready anyway; the rest of each message follows in a turn. A First is longer than what comes behind it, so that
    /// by itself it costs nearly a super-packet for each message. 1 sends each by itself.
    /// </summary>
    public int BeginTogether { get; init; } = 8;

    /// <summary>The acknowledge timeout is never shorter.</summary>
    public TimeSpan RetransmitFloor { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>
    /// After how long a silence a peer is asked what it has, long before the acknowledge timeout; then after twice as
    /// long, and so on. Nothing is sent again before the answer, and it costs no retry. Null asks never, as rxe.
    /// </summary>
    public TimeSpan? ProbeAfter { get; init; }

    /// <summary>
    /// Once the round trips of a peer are known, it is asked after as long as it usually takes and four times the
    /// variation of that (RFC 6298), if that is less than <see cref="ProbeAfter"/>; but never sooner than this. Null
    /// measures nothing.
    /// </summary>
    public TimeSpan? ProbeFloor { get; init; }

    /// <summary>
    /// How often a queue pair may send a window (<see cref="WindowBytes"/>) of its answers again, beyond what each
    /// answer may be repeated; the round trip of its peer instead, if that was timed and is longer.
    /// </summary>
    public TimeSpan ReplayInterval { get; init; } = TimeSpan.FromMilliseconds(10);

    /// <summary>RNR timer code sent when a region must be mapped first: 1 to 12, that is 0.01 to 0.64 ms.</summary>
    public int FaultRnrTimer { get; init; } = 12;

    /// <summary>
    /// How long a user inside the gate of a region may keep a drain waiting: one packet or one block. Later the fence
    /// of the drain is forced with ETIME, which lets waiters go on and is evidence of nothing.
    /// </summary>
    public TimeSpan DrainTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Multicast groups that queue pairs may be attached to, each of which costs a socket. As rxe.
    /// </summary>
    public int MulticastGroupsMax { get; init; } = Verbs.DeviceAttributes.Instance.MaxMulticastGroups;

    /// <summary>
    /// Queue pairs that may be attached to one group: so many copies are made of one packet. As rxe.
    /// </summary>
    public int MulticastPairsMax { get; init; } = Verbs.DeviceAttributes.Instance.MaxMulticastPairs;

    /// <summary>The one partition key.</summary>
    public ushort PKey { get; init; } = Bth.DefaultPKey;

    /// <summary>
    /// Async events kept until polled; later ones are lost, and counted (<see cref="RdmaStats.EventsLost"/>).
    /// </summary>
    public int AsyncEventCapacity { get; init; } = 1024;

    /// <summary>
    /// Told what will be read next, one packet ahead, when the memory is probably in no cache of the processor; null
    /// for nobody. Inside a gate: it returns at once and touches nothing but those bytes.
    /// </summary>
    public MemoryHint? WillRead { get; init; }

    /// <summary>
    /// A region up to this size is likely to be in a cache of the processor: to ask for its bytes ahead costs more than
    /// it saves, and to do something else while they are copied costs less.
    /// </summary>
    public ulong CachedBytes { get; init; } = 8 << 20;

    /// <summary>
    /// Told what the next packet of a message will be placed in, while it has not been checked yet; null for nobody. As
    /// <see cref="WillRead"/>.
    /// </summary>
    public MemoryHint? WillWrite { get; init; }

    /// <summary>
    /// What FLUSH to persistence does; null when the device has none. Then regions with
    /// <see cref="Verbs.AccessFlags.FlushPersistent"/> are refused.
    /// </summary>
    public MemoryPersist? Persist { get; init; }

    /// <summary>
    /// Whether regions may be paged on demand (<c>IBV_ODP_SUPPORT</c>). Without it they are refused, as on a device
    /// that cannot stop and go on.
    /// </summary>
    public bool PagesOnDemand { get; init; } = true;

    /// <summary>What becomes of a key whose memory is wanted back.</summary>
    public RegionRevocation Revocation { get; init; }

    /// <summary>
    /// How many pages behind the one that was missed are mapped along, where they are in memory already.
    /// </summary>
    public int FaultAheadPages { get; init; } = 15;

    /// <summary>
    /// An extension: regions on demand reach private pages of another device where they are, if there is a route and
    /// its driver lets them (<see cref="Core.AddressSpaces.IPeerReachableMemory"/>). Off, as in the kernel of today,
    /// such a page comes home first.
    /// </summary>
    public bool ReachesPrivatePages { get; init; }

    /// <summary>Congestion control; null sends no CNP and obeys none (rxe knows neither).</summary>
    public CongestionOptions? Congestion { get; init; }

    /// <summary>Faults that the port inflicts on itself; null in a product that is not being tested.</summary>
    public FaultOptions? Faults { get; init; }

    public ResponderDefences Defences { get; init; } = ResponderDefences.All;

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Check(FurtherPorts.Count < PortsMax, $"a device has at most {PortsMax} ports, not {FurtherPorts.Count + 1}");
        Check(
            FurtherPorts.Append(new PortAddress(Gid, UdpPort)).Distinct().Count() == FurtherPorts.Count + 1,
            "two ports have the same address");
        Range(SuperPacketBytes, 4144, 65507, nameof(SuperPacketBytes));
        Range((int)PortMtu, (int)Verbs.PathMtu.Mtu256, (int)Verbs.PathMtu.Mtu4096, nameof(PortMtu));
        Range(SuperPacketSegments, 1, SuperPacketSegmentsMax, nameof(SuperPacketSegments));
        Check(WindowBytes > 0, $"{nameof(WindowBytes)} must be positive, not {WindowBytes}");
        Check(ReadWindowBytes > 0, $"{nameof(ReadWindowBytes)} must be positive, not {ReadWindowBytes}");
        Check(
            ReadWindowEmptyBytes is null || ReadWindowEmptyBytes >= ReadWindowBytes,
            $"{nameof(ReadWindowEmptyBytes)} must be at least {nameof(ReadWindowBytes)}, not {ReadWindowEmptyBytes}");
        Check(DatagramChargeBytes >= 0, $"{nameof(DatagramChargeBytes)} must not be negative: {DatagramChargeBytes}");
        Check(
            ReadRequestBytes >= 4096 && ReadRequestBytes % 4096 == 0,
            $"{nameof(ReadRequestBytes)} must be a multiple of 4096, not {ReadRequestBytes}");
        Check(AcknowledgeShare >= 1, $"{nameof(AcknowledgeShare)} must be at least 1, not {AcknowledgeShare}");
        Check(BeginTogether >= 1, $"{nameof(BeginTogether)} must be at least 1, not {BeginTogether}");
        Check(RetransmitFloor >= TimeSpan.Zero, $"{nameof(RetransmitFloor)} must not be negative: {RetransmitFloor}");
        Check(ProbeAfter is null || ProbeAfter > TimeSpan.Zero, $"{nameof(ProbeAfter)} must be positive: {ProbeAfter}");
        Check(ProbeFloor is null || ProbeFloor > TimeSpan.Zero, $"{nameof(ProbeFloor)} must be positive: {ProbeFloor}");
        Check(ReplayInterval > TimeSpan.Zero, $"{nameof(ReplayInterval)} must be positive: {ReplayInterval}");
        Range(FaultRnrTimer, 1, 12, nameof(FaultRnrTimer)); // 0.01 to 0.64 ms; code 0 would be 655 ms
        Range(FaultAheadPages, 0, 1 << 18, nameof(FaultAheadPages));
        Range(MulticastGroupsMax, 0, 1 << 16, nameof(MulticastGroupsMax));
        Range(MulticastPairsMax, 0, 1 << 10, nameof(MulticastPairsMax));
        Check(AsyncEventCapacity >= 1, $"{nameof(AsyncEventCapacity)} must be at least 1, not {AsyncEventCapacity}");
        Congestion?.Validate(problems);
        Faults?.Validate(problems);
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Range(int value, int least, int most, string name) =>
            Check(value >= least && value <= most, $"{name} must be {least} to {most}, not {value}");

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add(problem);
            }
        }
    }

    /// <summary>
    /// Whether a packet with that key may be for us. The low 15 bits name the partition; two limited members do not
    /// talk to each other.
    /// </summary>
    internal bool IsOurPartition(ushort key) =>
        ((key ^ PKey) & 0x7FFF) == 0 && ((key | PKey) & 0x8000) != 0;
}
