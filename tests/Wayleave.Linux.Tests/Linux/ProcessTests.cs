using System.Diagnostics;
using System.Net.Sockets;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Who the peer of a Unix socket is, whether a process lives, and what the kernel offers.</summary>
public class ProcessTests
{
    [Fact]
    public void The_peer_of_a_connected_Unix_socket_is_this_process_and_its_user()
    {
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        using Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint($"\0wayleave-test-{Guid.NewGuid():N}"));
        listener.Listen(1);
        Assert.Throws<ArgumentException>(() => UnixPeer.Of(client));
        client.Connect(listener.LocalEndPoint!);
        using Socket accepted = listener.Accept();

        UnixPeer peer = UnixPeer.Of(accepted);
        Assert.Equal(Environment.ProcessId, peer.ProcessId);
        Assert.Equal((uint)int.Parse(OwnStatus("Uid:"), provider: null), peer.UserId);
        Assert.Equal((uint)int.Parse(OwnStatus("Gid:"), provider: null), peer.GroupId);
        Assert.Equal(peer, UnixPeer.Of(client));
        Assert.Equal(peer.UserId, UnixPeer.GetUid(accepted));
    }

    [Fact]
    public void A_socket_that_is_not_Unix_has_no_peer_user()
    {
        using Socket tcp = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        Assert.Throws<ArgumentException>(() => UnixPeer.Of(tcp));
    }

    [Fact]
    public void A_process_lives_until_it_has_ended()
    {
        if (!Support.PidFd.IsAvailable)
        {
            Assert.Skip(Support.PidFd.Detail);
        }

        using Process child = Process.Start(new ProcessStartInfo("cat") { RedirectStandardInput = true })!;
        using PidFd held = PidFd.Open(child.Id);
        Assert.Equal(child.Id, held.ProcessId);
        Assert.False(held.WaitForExit(TimeSpan.Zero));
        child.StandardInput.Close();
        while (!held.WaitForExit(Timeout.InfiniteTimeSpan))
        {
        }

        Assert.True(held.WaitForExit(TimeSpan.Zero));
    }

    [Fact]
    public void A_process_that_does_not_exist_cannot_be_held()
    {
        LinuxException e = Assert.Throws<LinuxException>(() => PidFd.Open(0x3FFFFFFF));
        Assert.Equal("pidfd_open process 1073741823: No such process (ESRCH)", e.Message);
        Assert.Equal(Errno.EINVAL, Assert.Throws<LinuxException>(() => PidFd.Open(0)).Errno);
    }

    [Fact]
    public void What_the_kernel_lacks_has_a_reason()
    {
        foreach (KernelFeature feature in Support.All)
        {
            TestContext.Current.TestOutputHelper?.WriteLine(feature.ToString());
            Assert.NotEmpty(feature.Name);
            Assert.NotEmpty(feature.Detail);
        }

        Assert.Equal(Support.All.Count, Support.All.DistinctBy(f => f.Name).Count());
    }

    private static string OwnStatus(string key) =>
        File.ReadLines("/proc/self/status").Single(line =>
            line.StartsWith(key, StringComparison.Ordinal)).Split('\t')[2];
}
