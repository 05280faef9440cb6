using System.Buffers;
using System.Buffers.Binary;
using System.Text.Json;
using System.Text.RegularExpressions;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Scenarios.Vectors;
using Wayleave.Tests.Rdma.Wire;
using Xunit;
using Capture = Wayleave.Scenarios.Vectors.Capture;

namespace Wayleave.Tests.Vectors;

/// <summary>What <c>wayleave roce check</c> says about good captures and about damaged ones.</summary>
public partial class CheckTests
{
    private const string Sample = "write_multi";

    // Where the pieces of an IPv4 frame start.
    private const int IPv4At = 14;
    private const int UdpAt = IPv4At + 20;
    private const int BthAt = UdpAt + 8;
    private const int PcapHeaderBytes = 24;
    private const int RecordHeaderBytes = 16;

    // What the descriptions say about the dialog, and the verdict, which they lack.
    private static readonly string[] s_notOfThePacket =
        ["direction", "work_request", "answers", "retransmission", "dropped", "ignored"];

    public static TheoryData<string> Names => new(CaptureFiles.Names);

    public static TheoryData<string> DescribedNames => new(CaptureFiles.DescribedNames);

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_capture_is_sound(string name)
    {
        CheckReport report = CheckReport.Of(CapturedDialog.Capture(name, CaptureFiles.Folder));
        Assert.True(report.IsSound, report.ToJson());
        Assert.Equal(report.PacketCount, report.Ok);
        Assert.NotEqual(0, report.PacketCount);
        Assert.Equal(0, report.SkippedFrames);
    }

    [Theory]
    [MemberData(nameof(DescribedNames))]
    public void The_json_of_a_packet_has_every_field_of_its_description(string name)
    {
        Capture capture = CapturedDialog.Capture(name, CaptureFiles.Folder);
        using JsonDocument report = JsonDocument.Parse(CheckReport.Of(capture).ToJson());
        using JsonDocument description = CaptureFiles.Description(name);
        JsonElement actual = report.RootElement.GetProperty("packets");
        JsonElement expected = description.RootElement.GetProperty("packets");
        Assert.Equal("wayleave.roce_check.v1", report.RootElement.GetProperty("schema").GetString());
        Assert.Equal(expected.GetArrayLength(), actual.GetArrayLength());
        for (int i = 0; i < expected.GetArrayLength(); i++)
        {
            Assert.Equal("ok", actual[i].GetProperty("icrc_verdict").GetString());
            foreach (JsonProperty field in expected[i].EnumerateObject()
                .Where(f => !s_notOfThePacket.Contains(f.Name) && f.Value.ValueKind != JsonValueKind.Null))
            {
                Assert.True(
                    actual[i].TryGetProperty(field.Name, out JsonElement value), $"packet {i} has no {field.Name}");
                Assert.True(JsonElement.DeepEquals(field.Value, value),
                    $"packet {i}: {field.Name} is {value}, not {field.Value}");
            }
        }
    }

    [Fact]
    public void Lines_are_those_that_the_capture_set_was_published_with()
    {
        string readme = File.ReadAllText(Path.Combine(CaptureFiles.RepositoryFolder, "README.txt"));
        int compared = 0;
        foreach (Match section in Section().Matches(readme))
        {
            Capture capture = CapturedDialog.Capture(section.Groups[1].Value);
            long first = capture.Packets[0].TimestampNanoseconds;
            string[] lines = [.. section.Groups[2].Value.Split('\n').Where(l => PacketLine().IsMatch(l))];
            for (int i = 0; i < lines.Length; i++)
            {
                Assert.Equal(lines[i].Trim(), PacketText.Line(capture.Packets[i], first).Trim());
                compared++;
            }
        }

        Assert.True(compared > 100 || Environment.GetEnvironmentVariable("WAYLEAVE_VECTORS") is not null,
            $"only {compared} lines compared");
    }

    [Theory]
    [InlineData(BthAt, "the opcode")]
    [InlineData(BthAt + 9, "the PSN")]
    [InlineData(BthAt + 12, "the address in the RETH")]
    [InlineData(BthAt + 40, "the payload")]
    [InlineData(IPv4At + 4, "the identification")]
    [InlineData(IPv4At + 12, "the source address")]
    [InlineData(UdpAt, "the source port")]
    public void ROCE_02_One_flipped_bit_makes_a_packet_bad(int offset, string what)
    {
        byte[] file = CapturedDialog.Bytes(Sample);
        file[PcapHeaderBytes + RecordHeaderBytes + offset] ^= 0x02;
        CheckReport report = CheckReport.Of(CapturedDialog.Read(file));
        Assert.True(report.Bad == 1, $"{what}: {report.Bad} packets are bad");
        Assert.Equal(IcrcVerdict.Bad, report.Packets[0].IcrcVerdict);
        Assert.False(report.IsSound);
    }

    [Fact]
    public void ROCE_02_A_field_that_routers_change_may_differ()
    {
        byte[] file = CapturedDialog.Bytes(Sample);
        int frame = PcapHeaderBytes + RecordHeaderBytes;
        file[frame + IPv4At + 1] ^= 0x03; // ECN
        file[frame + IPv4At + 8] -= 1; // TTL
        file[frame + BthAt + 4] ^= 0x80; // FECN
        Assert.True(CheckReport.Of(CapturedDialog.Read(file)).IsSound);
    }

    [Theory]
    [InlineData(UdpAt + 5, "the lengths in the IP and UDP headers disagree")]
    [InlineData(IPv4At, "IPv4 options")]
    [InlineData(IPv4At + 6, "an IP fragment")]
    public void A_damaged_frame_does_not_hide_as_another_protocol(int offset, string problem)
    {
        byte[] file = CapturedDialog.Bytes(Sample);
        file[PcapHeaderBytes + RecordHeaderBytes + offset] ^= offset == IPv4At + 6 ? (byte)0x20 : (byte)0x01;
        if (offset == IPv4At)
        {
            file[PcapHeaderBytes + RecordHeaderBytes + IPv4At] = 0x46;
            file.AsSpan(PcapHeaderBytes + RecordHeaderBytes + UdpAt, 8).CopyTo(
                file.AsSpan(PcapHeaderBytes + RecordHeaderBytes + UdpAt + 4)); // where a reader of options looks
        }

        CheckReport report = CheckReport.Of(CapturedDialog.Read(file));
        Assert.Equal(0, report.SkippedFrames);
        Assert.Equal(1, report.Bad);
        Assert.StartsWith(problem, report.Packets[0].Malformed, StringComparison.Ordinal);
    }

    [Fact]
    public void A_capture_that_kept_only_the_start_of_a_packet_cannot_judge_it()
    {
        ArrayBufferWriter<byte> output = new();
        PcapWriter.WriteHeader(output);
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(CapturedDialog.Bytes(Sample), out PcapReader? reader));
        Assert.Equal(PcapStatus.Success, reader!.TryRead(out PcapRecord record));
        PcapWriter.WriteFrame(output, record.TimestampNanoseconds, record.Frame.Span[..(BthAt + 12 + 16)]);
        PcapWriter.WriteFrame(output, record.TimestampNanoseconds, record.Frame.Span[..(BthAt + 12)]);
        byte[] file = output.WrittenSpan.ToArray();
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(PcapHeaderBytes + 12), record.OriginalBytes);

        CheckReport report = CheckReport.Of(CapturedDialog.Read(file));
        Assert.Equal(2, report.Truncated);
        Assert.False(report.IsSound);
        Assert.Equal("RC_WRITE_FIRST", report.Packets[0].Opcode);
        Assert.Equal("0x20000100", report.Packets[0].Reth?.Va);
        Assert.Null(report.Packets[0].Icrc);
        Assert.Equal("RC_WRITE_FIRST", report.Packets[1].Opcode);
        Assert.Null(report.Packets[1].Reth);
    }

    [Fact]
    public void Frames_of_others_are_skipped_and_counted()
    {
        byte[] file = CapturedDialog.Bytes(Sample);
        int frame = PcapHeaderBytes + RecordHeaderBytes;
        file[frame + UdpAt + 2] ^= 0xFF; // another destination port
        CheckReport report = CheckReport.Of(CapturedDialog.Read(file));
        Assert.Equal(1, report.SkippedFrames);
        Assert.True(report.IsSound);
        Assert.Equal(2, report.Packets[0].Frame);
        Assert.Equal(0, report.Packets[0].Index);
    }

    [Fact]
    public void A_file_that_ends_inside_a_packet_is_reported_with_the_packets_before()
    {
        byte[] file = CapturedDialog.Bytes(Sample);
        CheckReport report = CheckReport.Of(CapturedDialog.Read(file.AsMemory(0, file.Length - 5)));
        Assert.Equal(CheckReport.Of(CapturedDialog.Read(file)).PacketCount - 1, report.Ok);
        Assert.False(report.IsSound);
        Assert.Contains("cut off", report.FileProblem, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_cut_and_every_flipped_byte_of_a_capture_is_survived()
    {
        byte[] file = CapturedDialog.Bytes("rnr_retry_ok");
        for (int length = 0; length < file.Length; length++)
        {
            if (Capture.TryRead(file.AsMemory(0, length), out Capture? cut) == PcapStatus.Success)
            {
                Describe(cut!);
            }
        }

        for (int offset = 0; offset < file.Length; offset++)
        {
            file[offset] ^= 0xFF;
            if (Capture.TryRead(file, out Capture? flipped) == PcapStatus.Success)
            {
                Describe(flipped!);
            }

            file[offset] ^= 0xFF;
        }
    }

    private static void Describe(Capture capture)
    {
        Assert.NotEmpty(CheckReport.Of(capture).ToJson());
        Assert.All(capture.Packets, p => Assert.NotEmpty(PacketText.Line(p, firstNanoseconds: 0)));
    }

    [GeneratedRegex(@"^== (\w+)\.pcap \(.*?\)\n(.*?)(?=^==|\z)", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Section();

    [GeneratedRegex(@"^ {4}\d+\.\d{6} ")]
    private static partial Regex PacketLine();
}
