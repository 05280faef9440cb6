using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// REQ (IBTA 12.6.5), as rdma_cm sends it: one path, and its own header of 36 bytes before the private data of the user
/// (<c>cma.c: struct cma_hdr</c>).
/// </summary>
public sealed record CmRequest
{
    /// <summary>Bytes that a user may add.</summary>
    public const int PrivateDataMax = 56;

    private const int AddressHeaderBytes = CmAddressHeader.Size;
    private const int PathOffset = 52;
    private const int PrivateOffset = 140;
    private const ulong TcpPortSpace = 0x0106_0000; // RDMA_PS_TCP in bits 31 to 16

    /// <summary>The sender's name for the connection.</summary>
    public required uint LocalId { get; init; }

    /// <summary>
    /// What is asked for: port space and port (<see cref="ServiceIdOf"/>).
    /// </summary>
    public required ulong ServiceId { get; init; }

    /// <summary>The sender's adapter: with <see cref="LocalId"/> it tells a repetition from a new request.</summary>
    public required ulong NodeGuid { get; init; }

    public required uint QpNumber { get; init; }

    /// <summary>READs and atomics that the sender answers at a time.</summary>
    public required int ResponderResources { get; init; }

    /// <summary>READs and atomics that it wants to have outstanding.</summary>
    public required int InitiatorDepth { get; init; }

    /// <summary>4.096 us times two to this power, until the receiver answers.</summary>
    public int ResponseTimeout { get; init; } = 20;

    /// <summary>0 is RC, 1 is UC.</summary>
    public int Transport { get; init; }

    /// <summary>The PSN that the <em>receiver</em> uses for its first request.</summary>
    public required uint StartingPsn { get; init; }

    public int RetryCount { get; init; } = 7;

    public ushort PKey { get; init; } = Bth.DefaultPKey;

    /// <summary><c>enum ibv_mtu</c>.</summary>
    public required int PathMtu { get; init; }

    public int RnrRetryCount { get; init; } = 7;

    public int RetriesMax { get; init; } = 15;

    /// <summary>The sender takes receives from a shared queue.</summary>
    public bool UsesSharedReceives { get; init; }

    public required Gid LocalGid { get; init; }

    public required Gid RemoteGid { get; init; }

    public byte TrafficClass { get; init; }

    public byte HopLimit { get; init; } = 64;

    /// <summary>Acknowledge timeout for the receiver's queue pair, as code.</summary>
    public int AckTimeout { get; init; } = 17;

    /// <summary>Of rdma_cm's own header (<c>CMA_VERSION</c>); anything but 0 is refused.</summary>
    public int HeaderVersion { get; init; }

    /// <summary>4 or 6; anything else is refused.</summary>
    public int IPVersion { get; init; } = 4;

    /// <summary>The port that the sender connects from.</summary>
    public ushort SourcePort { get; init; }

    /// <summary>What the user added. rdma_cm does not say how much of it is meant.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; init; }

    internal Verbs.QueuePairType QueuePairType => Transport == 0
        ? Verbs.QueuePairType.ReliableConnection
        : Verbs.QueuePairType.UnreliableConnection;

    /// <summary>The low 16 bits of the service id: the port that is asked for.</summary>
    public ushort Port => (ushort)ServiceId;

    /// <summary>The service id of a port in the space that rdma_cm calls RDMA_PS_TCP.</summary>
    public static ulong ServiceIdOf(ushort port) => TcpPortSpace | port;

    /// <summary>Reads the body of a datagram whose header says that it is one.</summary>
    public static CmRequest Parse(ReadOnlySpan<byte> mad)
    {
        ReadOnlySpan<byte> b = mad[MadHeader.Size..];
        uint retries = BinaryPrimitives.ReadUInt32BigEndian(b[44..]);
        uint depth = BinaryPrimitives.ReadUInt32BigEndian(b[36..]);
        uint resources = BinaryPrimitives.ReadUInt32BigEndian(b[32..]);
        return new CmRequest
        {
            LocalId = BinaryPrimitives.ReadUInt32BigEndian(b),
            ServiceId = BinaryPrimitives.ReadUInt64BigEndian(b[8..]),
            NodeGuid = BinaryPrimitives.ReadUInt64BigEndian(b[16..]),
            QpNumber = resources >> 8,
            ResponderResources = (byte)resources,
            InitiatorDepth = (byte)depth,
            ResponseTimeout = b[43] >> 3,
            Transport = b[43] >> 1 & 3,
            StartingPsn = retries >> 8,
            RetryCount = (int)(retries & 7),
            PKey = BinaryPrimitives.ReadUInt16BigEndian(b[48..]),
            PathMtu = b[50] >> 4,
            RnrRetryCount = b[50] & 7,
            RetriesMax = b[51] >> 4,
            UsesSharedReceives = (b[51] & 8) != 0,
            LocalGid = Gid.FromBytes(b[(PathOffset + 4)..]),
            RemoteGid = Gid.FromBytes(b[(PathOffset + 20)..]),
            TrafficClass = b[92],
            HopLimit = b[93],
            AckTimeout = b[95] >> 3,
            HeaderVersion = b[PrivateOffset],
            IPVersion = b[PrivateOffset + 1] >> 4,
            SourcePort = BinaryPrimitives.ReadUInt16BigEndian(b[(PrivateOffset + 2)..]),
            PrivateData = b.Slice(PrivateOffset + AddressHeaderBytes, PrivateDataMax).ToArray(),
        };
    }

    /// <summary>Writes the whole datagram.</summary>
    public void WriteTo(Span<byte> mad, ulong transactionId)
    {
        new MadHeader(CmMessageId.ConnectRequest, transactionId).WriteTo(mad);
        Span<byte> b = mad[MadHeader.Size..MadHeader.MadBytes];
        BinaryPrimitives.WriteUInt32BigEndian(b, LocalId);
        BinaryPrimitives.WriteUInt64BigEndian(b[8..], ServiceId);
        BinaryPrimitives.WriteUInt64BigEndian(b[16..], NodeGuid);
        BinaryPrimitives.WriteUInt32BigEndian(b[32..], QpNumber << 8 | (byte)ResponderResources);
        b[39] = (byte)InitiatorDepth;
        b[43] = (byte)(ResponseTimeout << 3 | Transport << 1);
        BinaryPrimitives.WriteUInt32BigEndian(
            b[44..], StartingPsn << 8 | (uint)(ResponseTimeout << 3) | (uint)RetryCount);
        BinaryPrimitives.WriteUInt16BigEndian(b[48..], PKey);
        b[50] = (byte)(PathMtu << 4 | RnrRetryCount);
        b[51] = (byte)(RetriesMax << 4 | (UsesSharedReceives ? 8 : 0));
        b[52..56].Fill(0xFF); // LIDs: there are none
        LocalGid.WriteTo(b[(PathOffset + 4)..]);
        RemoteGid.WriteTo(b[(PathOffset + 20)..]);
        uint flow = (uint)(SourcePort * 31 + Port) & 0xF_FFFF;
        BinaryPrimitives.WriteUInt32BigEndian(b[88..], flow << 12);
        (b[92], b[93], b[95]) = (TrafficClass, HopLimit, (byte)(AckTimeout << 3));
        new CmAddressHeader(HeaderVersion, IPVersion, SourcePort, LocalGid, RemoteGid).WriteTo(b[PrivateOffset..]);
        PrivateData.Span.CopyTo(b[(PrivateOffset + AddressHeaderBytes)..]);
    }
}
