using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Scenarios.Vectors;
using Wayleave.Tests.Rdma.Wire;
using Xunit;
using Recording = Wayleave.Scenarios.Vectors.Capture;

namespace Wayleave.Tests.Vectors;

/// <summary>A capture of the repository with its description, and ways to damage them.</summary>
internal static class CapturedDialog
{
    public static byte[] Bytes(string name, string? folder = null) =>
        File.ReadAllBytes(Path.Combine(folder ?? CaptureFiles.RepositoryFolder, name + ".pcap"));

    public static byte[] Description(string name, string? folder = null) =>
        File.ReadAllBytes(Path.Combine(folder ?? CaptureFiles.RepositoryFolder, name + ".json"));

    public static Recording Capture(string name, string? folder = null) => Read(Bytes(name, folder));

    public static CaptureVector Vector(string name, string? folder = null) =>
        CaptureVector.Parse(Description(name, folder));

    /// <summary>The text of a description with a part of it replaced, which it must have.</summary>
    public static byte[] ChangedDescription(string name, string from, string to)
    {
        string json = Encoding.UTF8.GetString(Description(name));
        Assert.Contains(from, json, StringComparison.Ordinal);
        return Encoding.UTF8.GetBytes(json.Replace(from, to, StringComparison.Ordinal));
    }

    public static Recording Read(ReadOnlyMemory<byte> file)
    {
        Assert.Equal(PcapStatus.Success, Recording.TryRead(file, out Recording? capture));
        return capture!;
    }

    /// <summary>
    /// The capture with one packet changed, from its BTH on; then its ICRC is made right again, or not.
    /// </summary>
    public static Recording WithPacket(string name, int index, Action<byte[]> change, bool reseals = true) =>
        WithPackets(name, (i, bytes) => (i == index ? change : _ => { })(bytes), reseals);

    /// <summary>The same of every packet.</summary>
    public static Recording WithPackets(string name, Action<int, byte[]> change, bool reseals = true) => Rebuild(
        name,
        (i, header, bytes) =>
        {
            byte[] before = [.. bytes];
            change(i, bytes);
            if (!bytes.AsSpan().SequenceEqual(before))
            {
                if (reseals)
                {
                    IcrcFlow flow = new(header.Source, header.Destination, header.SourcePort, header.DestinationPort);
                    Icrc.Seal(flow, header.Identification, bytes);
                }
            }

            return true;
        });

    /// <summary>The capture and its description without one packet, as if it had never been sent.</summary>
    public static (Recording Capture, CaptureVector Vector) WithoutPacket(string name, int index)
    {
        CaptureVector vector = Vector(name);
        VectorPacket[] packets =
        [
            .. vector.Packets.Where(p => p.Index != index && p.Answers != index)
                .Select(p => p with { Index = Shifted(p.Index), Answers = p.Answers is { } a ? Shifted(a) : null }),
        ];
        HashSet<int> gone = [index, .. vector.Packets.Where(p => p.Answers == index).Select(p => p.Index)];
        packets = [.. packets.Select((p, i) => p with { Index = i })];
        return (Rebuild(name, (i, _, _) => !gone.Contains(i)), vector with { Packets = packets });

        int Shifted(int old) => old > index ? old - 1 : old;
    }

    /// <summary>A new dialog from packets of an old one, in the given order; the description follows.</summary>
    public static (Recording Capture, CaptureVector Vector) Compose(string name, params Take[] takes)
    {
        IReadOnlyList<CapturedPacket> packets = Capture(name).Packets;
        CaptureVector vector = Vector(name);
        ArrayBufferWriter<byte> output = new();
        PcapWriter.WriteHeader(output);
        List<VectorPacket> described = [];
        foreach (Take take in takes)
        {
            CapturedPacket source = packets[take.From];
            byte[] bytes = source.Bytes.ToArray();
            take.Change?.Invoke(bytes);
            FrameHeader header = source.Header;
            IcrcFlow flow = new(header.Source, header.Destination, header.SourcePort, header.DestinationPort);
            Icrc.Seal(flow, header.Identification, bytes);
            PcapWriter.WriteDatagram(output, take.Milliseconds * 1_000_000L, header, bytes);
            described.Add(vector.Packets[take.From] with
            {
                Index = described.Count,
                TimeMicroseconds = take.Milliseconds * 1000L,
                Psn = BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(8)) & Psn.Mask,
                Icrc = Convert.ToHexStringLower(bytes[^4..]),
                Retransmission = take.Retransmission,
                Answers = take.Answers,
                Dropped = take.Dropped,
                Ignored = take.Ignored ? "out of order" : null,
            });
        }

        return (Read(output.WrittenMemory), vector with { Packets = described });
    }

    private static Recording Rebuild(string name, Func<int, FrameHeader, byte[], bool> keeps)
    {
        ArrayBufferWriter<byte> output = new();
        PcapWriter.WriteHeader(output);
        foreach (CapturedPacket packet in Capture(name).Packets)
        {
            byte[] bytes = packet.Bytes.ToArray();
            if (keeps(packet.Index, packet.Header, bytes))
            {
                PcapWriter.WriteDatagram(output, packet.TimestampNanoseconds, packet.Header, bytes);
            }
        }

        return Read(output.WrittenMemory);
    }
}

/// <summary>A packet of a composed dialog: which old one it is, and what the description says of it.</summary>
internal sealed record Take(
    int From,
    int Milliseconds = 0,
    int? Answers = null,
    string? Retransmission = null,
    bool Dropped = false,
    bool Ignored = false,
    Action<byte[]>? Change = null);
