using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Programs of several users.</summary>
public sealed class UserTests : BrokerTest
{
    private const int Listed = 61001;
    private const int Stranger = 61002;

    protected override IReadOnlyList<uint> Users => [Listed];

    [Fact]
    public async Task Users_that_are_listed_get_in_and_see_none_of_each_others_buffers()
    {
        Assert.SkipUnless(FileStatus.CurrentUserId == 0, "only root can become other users");
        File.SetUnixFileMode(Root, File.GetUnixFileMode(Root) | UnixFileMode.OtherExecute);
        ForeignProgram own = await StartAsync(), listed = Start(), stranger = Start();
        int buffer = await own.OkAsync("allocate 1 4096 0");
        int descriptor = await own.OkAsync($"export {buffer}");
        await listed.OkAsync($"become {Listed}");
        await listed.OkAsync($"connect {Server.SocketPath}");
        Assert.Equal(1, await listed.OkAsync("open gpu0"));
        await listed.RefusedAsync(Errno.EBADF, $"map {buffer} 4096");
        await listed.RefusedAsync(Errno.EBADF, $"export {buffer}");
        await stranger.OkAsync($"become {Stranger}");
        Assert.StartsWith("error", await stranger.AskAsync($"connect {Server.SocketPath}"), StringComparison.Ordinal);

        // A descriptor is the capability, whoever has it.
        string meeting = Path.Combine(Root, "meeting");
        await own.OkAsync($"map {buffer} 4096");
        await own.OkAsync("poke 17 71");
        await own.OkAsync($"offer {descriptor} {meeting}");
        File.SetUnixFileMode(meeting, File.GetUnixFileMode(meeting) | UnixFileMode.OtherWrite);
        int taken = await listed.OkAsync($"take {meeting}");
        int number = await listed.OkAsync($"import {taken}");
        await listed.OkAsync($"map {number} 4096");
        Assert.Equal(71, await listed.OkAsync("peek 17"));

        // And so is that of a fence, which is all that another user has of somebody's work.
        int fence = await own.OkAsync($"fence {await own.OkAsync("timeline")} 1");
        meeting = Path.Combine(Root, "other-meeting");
        await own.OkAsync($"offer {fence} {meeting}");
        File.SetUnixFileMode(meeting, File.GetUnixFileMode(meeting) | UnixFileMode.OtherWrite);
        int seen = await listed.OkAsync($"take {meeting}");
        Assert.Equal(0, await listed.OkAsync($"describe {seen}"));
        await listed.RefusedAsync(Errno.EBADF, "advance 4 1");
        await listed.RefusedAsync(Errno.EBADF, "fence 4 1");
        await own.OkAsync("advance 3 1");
        Assert.Equal(1, await listed.OkAsync($"wait {seen} 30000"));
    }

    [Fact]
    public async Task A_path_that_is_no_sockets_is_refused_before_anything_runs()
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Name = new string('n', 60),
            Nics = [new NicConfig { Address = System.Net.IPAddress.Loopback, UdpPort = 0 }],
            Gpus = [new GpuConfig { VramBytes = 8 << 20, SystemPoolBytes = 0 }],
            Nvmes = [],
        });
        string root = Directory.CreateDirectory(Path.Combine(Root, new string('r', 40))).FullName;
        WayleaveException refused = Assert.Throws<WayleaveException>(
            () => BrokerServer.Start(host, name => name == "XDG_RUNTIME_DIR" ? root : null));
        Assert.Equal(Errno.ENAMETOOLONG, refused.Errno);
    }
}
