using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Host.Tracing;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Transfers;

/// <summary>When what is captured came, and a capture that cannot be written.</summary>
public sealed class PcapFileTests : IDisposable
{
    private const int NoSpace = 28; // ENOSPC

    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(1)]
    [InlineData(3000)] // more than is kept before it is written
    public void A_full_disk_is_told_with_a_remedy_and_leaves_no_cut_file(int datagrams)
    {
        string path = Path.Combine(_folder, "p.pcap");
        PcapFile capture = new(path, p => new FullDisk(p), TimeProvider.System, long.MaxValue);
        Send(capture, datagrams);
        WayleaveException e = Assert.Throws<WayleaveException>(capture.Dispose);
        Assert.Equal(Errno.ENOSPC, e.Errno);
        Assert.StartsWith($"write {path}: ", e.Message, StringComparison.Ordinal);
        Assert.EndsWith("; free some space, or name another folder", e.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
        capture.Dispose();
    }

    [Fact]
    public void A_device_that_is_full_stays()
    {
        PcapFile capture = new("/dev/full", TimeProvider.System);
        Send(capture, 1);
        Assert.Equal(Errno.ENOSPC, Assert.Throws<WayleaveException>(capture.Dispose).Errno);
        Assert.True(File.Exists("/dev/full"));
    }

    [Fact]
    public void The_first_datagram_has_the_time_at_which_it_came()
    {
        string path = Path.Combine(_folder, "p.pcap");
        ManualTime clock = new();
        using (PcapFile capture = new(path, clock))
        {
            clock.Now += TimeSpan.FromSeconds(12); // nobody has said anything for so long
            Send(capture, 1);
        }

        byte[] bytes = File.ReadAllBytes(path);
        uint seconds = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(24));
        Assert.Equal(clock.Now.ToUnixTimeSeconds(), seconds);
    }

    private static void Send(PcapFile capture, int datagrams)
    {
        Gid own = Gid.FromIPv4(0x7F00_0001);
        IDatagramTap tap = capture.Of(own, 4791);
        for (int i = 0; i < datagrams; i++)
        {
            tap.Sent(own, 4791, new byte[1000], 1000, TimeSpan.Zero);
        }
    }

    private sealed class ManualTime : TimeProvider
    {
        public DateTimeOffset Now { get; set; } = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

        public override DateTimeOffset GetUtcNow() => Now;
    }

    /// <summary>Takes the first bytes and no more.</summary>
    private sealed class FullDisk(string path) : FileStream(path, FileMode.Create)
    {
        public override void Write(ReadOnlySpan<byte> buffer)
        {
            base.Write(buffer[..10]);
            throw new IOException("No space left on device", NoSpace);
        }
    }
}
