using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>The end of a transfer: a commit, while the lease under which the object was written is held.</summary>
public sealed class CommitTests : IDisposable
{
    private const ulong SizeBytes = 32 << 20;

    // The checksum of the object takes several of these.
    private static readonly TimeSpan s_heartbeat = TimeSpan.FromMilliseconds(1);

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Heartbeats_while_the_content_is_checked_do_not_give_the_object_up()
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        await using ControlServer server = await StartServerAsync(host);
        using ControlClient client = Open(server);
        (ObjectDocument made, HeldLease lease) = await WriteNothingAsync(client);
        await using (lease)
        {
            ObjectDocument done = await client.CommitObjectAsync(made.Id, Sha256OfZeros(), Cancellation);
            Assert.Equal(ObjectState.Ready, done.State);
            await lease.Completion; // the last line is "committed"
        }

        Assert.NotNull(host.Objects.Find("gpu0", "object"));
        Assert.Empty(host.Leases.List());
    }

    [Fact]
    public async Task Content_that_differs_is_given_up()
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        await using ControlServer server = await StartServerAsync(host);
        using ControlClient client = Open(server);
        (ObjectDocument made, HeldLease lease) = await WriteNothingAsync(client);
        await using (lease)
        {
            WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
                () => client.CommitObjectAsync(made.Id, new string('0', 64), Cancellation));
            Assert.Equal(Errno.EIO, e.Errno);
            string reason = $"sha256 is {Sha256OfZeros()}, not {new string('0', 64)}; send it again";
            Assert.EndsWith(reason, e.Message, StringComparison.Ordinal);
        }

        Assert.Empty(host.Objects.List());
        using (host.Context.Enter())
        {
            Assert.Equal(0UL, host.Gpus[0].Device.Stats.VramUsedBytes);
        }
    }

    [Fact]
    public async Task Nobody_gets_a_lease_for_writing_while_the_content_is_checked()
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        await using ControlServer server = await StartServerAsync(host);
        using ControlClient client = Open(server);
        CreateObjectDocument create = new() { Device = "gpu0", Name = "object", SizeBytes = SizeBytes };
        DeviceObject o = host.Objects.Find((await client.CreateObjectAsync(create, Cancellation)).Id)!;
        host.Objects.BeginCommit(o);

        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => client.LeaseAsync(o.Id, NewWriter(), Cancellation));

        Assert.Equal(Errno.EBUSY, e.Errno);
        Assert.EndsWith(
            "its content is being checked; wait until it is committed", e.Message, StringComparison.Ordinal);
        Assert.Empty(host.Leases.List());
        using (host.Context.Enter())
        {
            Assert.Empty(o.Buffer.Attachments); // the key that was made for it is dead
        }

        await host.Objects.CommitAsync(o, Sha256OfZeros());
        Assert.Equal((ObjectState.Ready, Sha256OfZeros()), (o.State, o.Sha256));
    }

    private static async Task<(ObjectDocument Made, HeldLease Lease)> WriteNothingAsync(ControlClient client)
    {
        CreateObjectDocument create = new() { Device = "gpu0", Name = "object", SizeBytes = SizeBytes };
        ObjectDocument made = await client.CreateObjectAsync(create, Cancellation);
        return (made, await client.LeaseAsync(made.Id, NewWriter(), Cancellation));
    }

    private static LeaseRequestDocument NewWriter() => new()
    {
        Access = LeaseAccess.Write,
        Peer = new ConnectionEndDocument
        {
            Gid = "127.0.0.1",
            UdpPort = 4791,
            QpNumber = 17,
            Psn = 0,
            PathMtuBytes = 4096,
        },
    };

    private static string Sha256OfZeros() => Convert.ToHexStringLower(SHA256.HashData(new byte[SizeBytes]));

    private Task<ControlServer> StartServerAsync(WayleaveHost host) =>
        ControlServer.StartAsync(host, _folder.ListenerOptions with { HeartbeatInterval = s_heartbeat }, Cancellation);

    private ControlClient Open(ControlServer server)
    {
        WlUrl url = WlUrl.Create(server.EndPoint.Address.ToString(), server.EndPoint.Port);
        return ControlClient.Open(url, _folder.ClientOptions);
    }
}
