namespace Wayleave.Core.Topology;

/// <summary>
/// What one function has moved over one path to one window. Counted by the function's engines, each access once; the
/// sums per link are made from it when somebody asks.
/// </summary>
public sealed class PathTraffic
{
    private long _readBytes;
    private long _writtenBytes;
    private TrafficLane[] _lanes = []; // of engines that stay; replaced as a whole

    internal PathTraffic(
        PciFunction client, PciFunction? owner, PeerRoute route, PciFunction[] clientLinks, PciFunction[] ownerLinks) =>
        (Client, Owner, Route, ClientLinks, OwnerLinks) = (client, owner, route, clientLinks, ownerLinks);

    public PciFunction Client { get; }

    /// <summary>Whose memory it is; null for system memory.</summary>
    public PciFunction? Owner { get; }

    public PeerRoute Route { get; }

    /// <summary>Links on the client's side, from the client up, each named by the function at its lower end.</summary>
    public IReadOnlyList<PciFunction> ClientLinks { get; }

    /// <summary>Links on the owner's side, from the owner up.</summary>
    public IReadOnlyList<PciFunction> OwnerLinks { get; }

    /// <summary>Bytes that came to the client.</summary>
    public long ReadBytes
    {
        get
        {
            long bytes = Volatile.Read(ref _readBytes);
            foreach (TrafficLane lane in Volatile.Read(ref _lanes))
            {
                bytes += lane.ReadBytes;
            }

            return bytes;
        }
    }

    /// <summary>Bytes that left the client.</summary>
    public long WrittenBytes
    {
        get
        {
            long bytes = Volatile.Read(ref _writtenBytes);
            foreach (TrafficLane lane in Volatile.Read(ref _lanes))
            {
                bytes += lane.WrittenBytes;
            }

            return bytes;
        }
    }

    internal void AddRead(int bytes) => Interlocked.Add(ref _readBytes, bytes);

    internal void AddWritten(int bytes) => Interlocked.Add(ref _writtenBytes, bytes);

    /// <summary>Counters of one engine, for as long as the path is there. Any thread.</summary>
    internal TrafficLane AddLane()
    {
        TrafficLane lane = new();
        TrafficLane[] lanes;
        do
        {
            lanes = Volatile.Read(ref _lanes);
        }
        while (Interlocked.CompareExchange(ref _lanes, [.. lanes, lane], lanes) != lanes);
        return lane;
    }
}

/// <summary>
/// What one engine moved over a path. Written by whoever holds the engine's token, without an interlocked operation:
/// behind a copy that would wait until every store of the copy has left the processor.
/// </summary>
internal sealed class TrafficLane
{
    private long _readBytes;
    private long _writtenBytes;

    public long ReadBytes => Volatile.Read(ref _readBytes);

    public long WrittenBytes => Volatile.Read(ref _writtenBytes);

    public void AddRead(int bytes) => Volatile.Write(ref _readBytes, _readBytes + bytes);

    public void AddWritten(int bytes) => Volatile.Write(ref _writtenBytes, _writtenBytes + bytes);
}

/// <summary>What has crossed the link above a function.</summary>
/// <param name="Function">The function at the lower end.</param>
/// <param name="UpBytes">Payload towards the host bridge.</param>
/// <param name="DownBytes">Payload away from it.</param>
public readonly record struct LinkTraffic(PciFunction Function, long UpBytes, long DownBytes);
