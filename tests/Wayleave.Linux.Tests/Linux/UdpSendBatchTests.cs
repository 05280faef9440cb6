using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

public sealed class UdpSendBatchTests : IDisposable
{
    private readonly UdpEndpoint _sender = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000001, 0));
    private readonly UdpEndpoint _first = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000001, 0));
    private readonly UdpEndpoint _second = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000001, 0));

    public void Dispose()
    {
        _sender.Dispose();
        _first.Dispose();
        _second.Dispose();
    }

    [Fact]
    public void Super_packets_of_one_call_go_where_each_says_with_its_own_segments()
    {
        byte[] bytes = Pattern(10_000);
        UdpSuperPacket[] batch =
        [
            new UdpSuperPacket(_first.LocalAddress, 0, 3000, 1000),
            new UdpSuperPacket(_second.LocalAddress, 4000, 2500, 2000),
            new UdpSuperPacket(_first.LocalAddress, 9000, 7, 7),
        ];

        Assert.Equal(Errno.Success, _sender.TrySend(batch, bytes, out int sent));

        Assert.Equal(3, sent);
        AssertReceived(_first, bytes[..3000], 1000);
        AssertReceived(_second, bytes[4000..6500], 2000);
        AssertReceived(_first, bytes[9000..9007], 7);
    }

    [Fact]
    public void One_that_the_kernel_refuses_ends_the_call_and_says_why()
    {
        byte[] bytes = Pattern(4000);
        UdpSuperPacket[] batch =
        [
            new UdpSuperPacket(_first.LocalAddress, 0, 1000, 1000),
            new UdpSuperPacket(_first.LocalAddress, 0, UdpEndpoint.SegmentsMax + 1, 1),
            new UdpSuperPacket(_first.LocalAddress, 2000, 1000, 1000),
        ];

        Assert.Equal(Errno.EINVAL, _sender.TrySend(batch, bytes, out int sent));

        Assert.Equal(1, sent);
        AssertReceived(_first, bytes[..1000], 1000);
        Assert.Equal(Errno.EAGAIN, _first.TryReceive(new byte[10], out _, out _, out _, out _));
    }

    [Fact]
    public void One_of_the_other_ip_version_ends_the_call_before_the_kernel_sees_it()
    {
        byte[] bytes = Pattern(2000);
        EndpointAddress other = EndpointAddress.From(System.Net.IPAddress.IPv6Loopback, 9);
        UdpSuperPacket[] batch =
        [
            new UdpSuperPacket(_first.LocalAddress, 0, 1000, 1000),
            new UdpSuperPacket(other, 1000, 1000, 1000),
        ];

        Assert.Equal(Errno.EAFNOSUPPORT, _sender.TrySend(batch, bytes, out int sent));

        Assert.Equal(1, sent);
        AssertReceived(_first, bytes[..1000], 1000);
    }

    [Fact]
    public void Nothing_is_sent_of_a_call_that_is_wrong()
    {
        UdpSuperPacket fits = new(_first.LocalAddress, 0, 100, 100);

        Assert.Throws<ArgumentOutOfRangeException>(() =>
            _sender.TrySend([fits, fits with { OffsetBytes = 1 }], new byte[100], out _));
        Assert.Throws<ArgumentOutOfRangeException>(() =>
            _sender.TrySend([fits, fits with { SegmentBytes = 0 }], new byte[100], out _));
        Assert.Throws<ArgumentOutOfRangeException>(() =>
            _sender.TrySend([fits, fits, fits, fits, fits], new byte[100], out _));
        Assert.Equal(Errno.Success, _sender.TrySend([], new byte[100], out int sent));

        Assert.Equal(0, sent);
        Assert.Equal(Errno.EAGAIN, _first.TryReceive(new byte[10], out _, out _, out _, out _));
    }

    private static void AssertReceived(UdpEndpoint socket, byte[] bytes, int segmentBytes)
    {
        byte[] buffer = new byte[UdpEndpoint.SuperPacketBytesMax];
        Errno errno = socket.TryReceive(buffer, out int length, out int actualSegmentBytes, out _, out _);
        Assert.Equal(Errno.Success, errno);
        Assert.Equal(bytes, buffer[..length]);
        Assert.Equal(segmentBytes, actualSegmentBytes);
    }

    private static byte[] Pattern(int lengthBytes) => [.. Enumerable.Range(0, lengthBytes).Select(i => (byte)(i * 7))];
}
