using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>SIDR_REQ (IBTA 12.11.1): which queue pair serves datagrams for a port? As rdma_cm sends it.</summary>
public sealed record CmDatagramRequest
{
    /// <summary>Bytes that a user may add.</summary>
    public const int PrivateDataMax = 180;

    private const int PrivateOffset = 16;
    private const ulong UdpPortSpace = 0x0111_0000; // RDMA_PS_UDP in bits 31 to 16

    /// <summary>The sender's name for the look-up.</summary>
    public required uint RequestId { get; init; }

    /// <summary>Port space and port.</summary>
    public required ulong ServiceId { get; init; }

    public ushort PKey { get; init; } = Bth.DefaultPKey;

    public required Gid LocalGid { get; init; }

    public required Gid RemoteGid { get; init; }

    /// <summary>The port that the sender asks from.</summary>
    public ushort SourcePort { get; init; }

    /// <summary>As <see cref="CmRequest.HeaderVersion"/>.</summary>
    public int HeaderVersion { get; init; }

    /// <summary>4 or 6; anything else is dropped.</summary>
    public int IPVersion { get; init; } = 4;

    /// <summary>What the user added, padded with zeros.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; init; }

    /// <summary>The port that is asked for.</summary>
    public ushort Port => (ushort)ServiceId;

    /// <summary>The service id of a port in the space that rdma_cm calls RDMA_PS_UDP.</summary>
    public static ulong ServiceIdOf(ushort port) => UdpPortSpace | port;

    /// <summary>Reads the body of a datagram whose header says that it is one.</summary>
    public static CmDatagramRequest Parse(ReadOnlySpan<byte> mad)
    {
        ReadOnlySpan<byte> b = mad[MadHeader.Size..];
        CmAddressHeader addresses = CmAddressHeader.Parse(b[PrivateOffset..]);
        return new CmDatagramRequest
        {
            RequestId = BinaryPrimitives.ReadUInt32BigEndian(b),
            PKey = BinaryPrimitives.ReadUInt16BigEndian(b[4..]),
            ServiceId = BinaryPrimitives.ReadUInt64BigEndian(b[8..]),
            HeaderVersion = addresses.Version,
            IPVersion = addresses.IPVersion,
            SourcePort = addresses.Port,
            LocalGid = addresses.Source,
            RemoteGid = addresses.Destination,
            PrivateData = b.Slice(PrivateOffset + CmAddressHeader.Size, PrivateDataMax).ToArray(),
        };
    }

    /// <summary>Writes the whole datagram.</summary>
    public void WriteTo(Span<byte> mad, ulong transactionId)
    {
        new MadHeader(CmMessageId.ServiceIdRequest, transactionId).WriteTo(mad);
        Span<byte> b = mad[MadHeader.Size..MadHeader.MadBytes];
        BinaryPrimitives.WriteUInt32BigEndian(b, RequestId);
        BinaryPrimitives.WriteUInt16BigEndian(b[4..], PKey);
        BinaryPrimitives.WriteUInt64BigEndian(b[8..], ServiceId);
        new CmAddressHeader(HeaderVersion, IPVersion, SourcePort, LocalGid, RemoteGid).WriteTo(b[PrivateOffset..]);
        PrivateData.Span.CopyTo(b[(PrivateOffset + CmAddressHeader.Size)..]);
    }
}
