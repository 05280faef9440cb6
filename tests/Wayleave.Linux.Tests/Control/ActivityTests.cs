using System.Globalization;
using System.Text.Json;
using Wayleave.Cli;
using Wayleave.Cli.Output;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>What a host says it does, and how <c>wayleave top</c> shows it.</summary>
public sealed class ActivityTests : IAsyncLifetime
{
    private const ulong Size = 1 << 20;

    private readonly ControlTestFolder _folder = new();
    private readonly ManualClock _clock = new();
    private ServedHost _served = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private ControlClient Client => _served.Client;

    public async ValueTask InitializeAsync() =>
        _served = await ServedHost.StartAsync(_folder, "127.0.77.1", _clock);

    public async ValueTask DisposeAsync()
    {
        await _served.DisposeAsync();
        _folder.Dispose();
    }

    [Fact]
    public async Task Holders_are_those_who_reach_an_object_and_no_others()
    {
        ObjectDocument made = await CreateAsync("a");
        ActivityDocument idle = await Client.GetActivityAsync(Cancellation);
        Assert.Empty(idle.Holders);
        Assert.Equal(["gpu0", "nvme0", "rdma0"], idle.Devices.Select(d => d.Name));
        Assert.Equal(Size, idle.Devices[0].MemoryUsedBytes);
        Assert.Null(idle.Devices[2].MemoryTotalBytes);
        Lease lease = await LendAsync(made);
        HolderDocument holder = Assert.Single((await Client.GetActivityAsync(Cancellation)).Holders);
        Assert.Equal(
            (HoldKind.Lease, lease.Id, "127.0.77.2", "gpu0", "a", LeaseAccess.Write, ImporterKind.Dynamic, false),
            (holder.Kind, holder.Id, holder.Holder, holder.Device, holder.ObjectName, holder.Access, holder.Region,
                holder.Ending));
        await _served.Host.Leases.EndAsync(lease);
        Assert.Empty((await Client.GetActivityAsync(Cancellation)).Holders);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_object_counts_once_however_many_take_it_back_and_what_is_kept_back_is_named()
    {
        ObjectDocument made = await CreateAsync("a");
        await Client.CommitObjectAsync(made.Id, null, Cancellation);
        SharedBuffer buffer = _served.Host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket ticket = HoldReservation(buffer); // the revoke waits for it
        await RevokeAsync(timeoutMs: 1);
        ActivityDocument kept = await Client.GetActivityAsync(Cancellation);
        QuarantinedDocument quarantined = Assert.Single(kept.Quarantine);
        Assert.Equal((made.Id, "gpu0", "a", Size), (
            quarantined.Id, quarantined.Device, quarantined.ObjectName, quarantined.SizeBytes));
        Assert.Equal((1, 0, 0), (
            kept.Retirements.Revokes, kept.Retirements.InProgress, kept.Retirements.ReleasedLate));
        Assert.False(kept.Retirements.Grades.ContainsKey("Retired"));
        await RevokeAsync(timeoutMs: 1);
        Assert.Equal(1, (await Client.GetActivityAsync(Cancellation)).Retirements.Revokes);
        ReleaseReservation(buffer, ticket);
        while ((await Client.GetActivityAsync(Cancellation)).Quarantine.Count != 0)
        {
            await Task.Yield(); // the time limit of the test ends it
        }

        ObjectDocument second = await CreateAsync("b");
        await Client.DeleteObjectAsync(second.Id, Cancellation);
        RetirementsDocument after = (await Client.GetActivityAsync(Cancellation)).Retirements;
        Assert.Equal((2, 1, 1), (after.Revokes, after.ReleasedLate, after.Grades["Retired"]));
        Assert.Equal(after.Revokes, after.Grades.Values.Sum());

        Task<ProofDocument> RevokeAsync(int timeoutMs) => Client.RevokeAsync(
            "gpu0", "a", new RevokeObjectDocument { TimeoutMs = timeoutMs }, Cancellation);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_object_leaves_quarantine_once_however_often_it_was_taken_back()
    {
        DeviceObject o = _served.Host.Objects.Find((await CreateAsync("a")).Id)!;
        AcquireTicket ticket = HoldReservation(o.Buffer); // the revokes wait for it
        RevokePolicy policy = new() { Timeout = TimeSpan.FromMilliseconds(1) };
        await Task.WhenAll(_served.Host.Objects.RevokeAsync(o, policy), _served.Host.Objects.RevokeAsync(o, policy));
        await _served.Host.Objects.RevokeAsync(o, policy);
        Assert.Equal(ObjectState.Quarantined, o.State);
        ReleaseReservation(o.Buffer, ticket);
        while (o.State == ObjectState.Quarantined)
        {
            await Task.Delay(1, Cancellation);
        }

        // What was told before is counted before this: the callbacks of one release run one after the other.
        ObjectDocument next = await CreateAsync("b");
        await Client.DeleteObjectAsync(next.Id, Cancellation);
        RetirementsDocument counts = (await Client.GetActivityAsync(Cancellation)).Retirements;
        Assert.Equal((2, 1), (counts.Revokes, counts.ReleasedLate));
        Assert.Equal(ObjectState.Revoked, o.State);
    }

    [Fact]
    public async Task Top_prints_as_many_samples_as_it_was_asked_for()
    {
        ObjectDocument made = await CreateAsync("a");
        Lease lease = await LendAsync(made);
        (int code, string output, string error) = await RunAsync("top", "-n", "2", "--interval", "50ms");
        Assert.Equal((0, ""), (code, error));
        string[] frames = output.Split("\n\nhost ");
        Assert.Equal(2, frames.Length);
        Assert.StartsWith($"host host-127.0.77.1, up 0:00:0", output, StringComparison.Ordinal);
        Assert.Contains("127.0.77.2", frames[1], StringComparison.Ordinal);
        Assert.Contains("0 B", frames[1], StringComparison.Ordinal); // a rate: there is a sample before it
        (_, string json, _) = await RunAsync("top", "-n", "3", "--interval", "50ms", "--json");
        string[] lines = json.TrimEnd('\n').Split('\n');
        Assert.Equal(3, lines.Length);
        Assert.All(lines, l =>
        {
            using JsonDocument document = JsonDocument.Parse(l);
            Assert.Equal("wayleave.activity.v1", document.RootElement.GetProperty("schema").GetString());
        });
        await _served.Host.Leases.EndAsync(lease);
    }

    [Theory]
    [InlineData("--interval: at least 50ms", "--interval", "1ms")]
    [InlineData("--count: at least 1", "-n", "0")]
    public async Task A_watch_that_makes_no_sense_is_refused(string problem, params string[] options)
    {
        (int code, string output, string error) = await RunAsync(["top", .. options]);
        Assert.Equal((2, "", $"wayleave: {problem}\n"), (code, output, error));
    }

    [Fact]
    public void Rates_are_the_difference_of_two_samples_over_the_hosts_own_time()
    {
        ActivityDocument before = Sample(uptimeUs: 1_000_000, inBytes: 1 << 20, faults: 5);
        ActivityDocument now = Sample(uptimeUs: 3_000_000, inBytes: 5 << 20, faults: 25);
        string device = ActivityView.Render(now, before).Single(l => l.StartsWith("rdma0", StringComparison.Ordinal));
        Assert.Equal(
            ["rdma0", "rdma", "-", "-", "-", "2.00", "MiB", "0", "B", "10", "-", "ok"],
            device.Split(' ', StringSplitOptions.RemoveEmptyEntries));

        // A counter that starts anew is no rate, nor is the first sample.
        Assert.Contains("  -  ", RowOf(before, now), StringComparison.Ordinal);
        Assert.Contains("  -  ", RowOf(now, null), StringComparison.Ordinal);

        static string RowOf(ActivityDocument shown, ActivityDocument? earlier) =>
            ActivityView.Render(shown with { UptimeUs = 9_000_000 }, earlier)
                .Single(l => l.StartsWith("rdma0", StringComparison.Ordinal));
    }

    [Fact]
    public void A_live_screen_keeps_within_its_edges_and_gives_the_terminal_back()
    {
        using StringWriter terminal = new(CultureInfo.InvariantCulture);
        using (LiveScreen screen = new(terminal, () => (5, 3)))
        {
            screen.Draw(["1234567", "a\u001b[2Jb", "c", "d"]);
            screen.Draw(["x"]);
        }

        Assert.Equal(
            "\e[?1049h\e[?25l\e[?7l"
                + "\e[H\e[K12345\r\n\e[Ka?[2J\r\n\e[K... 2"
                + "\e[H\e[Kx\r\n\e[J"
                + "\e[?7h\e[?25h\e[?1049l",
            terminal.ToString());
    }

    private static ActivityDocument Sample(long uptimeUs, long inBytes, long faults) => new()
    {
        Host = "b",
        UptimeUs = uptimeUs,
        Programs = [],
        Devices =
        [
            new DeviceActivityDocument
            {
                Name = "rdma0",
                Type = "rdma",
                InBytes = inBytes,
                OutBytes = 0,
                Faults = faults,
            },
        ],
        Holders = [],
        Retirements = new RetirementsDocument
        {
            Revokes = 0,
            InProgress = 0,
            Grades = new Dictionary<string, long>(),
            ReleasedLate = 0,
        },
        Quarantine = [],
        StagingBytes = 0,
    };

    private async Task<(int Code, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        using StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        int code = await CommandLine.RunAsync(
            [.. arguments, "--socket", _served.Server.SocketPath!], output, error, Cancellation);
        return (code, output.ToString(), error.ToString());
    }

    private Task<ObjectDocument> CreateAsync(string name) => Client.CreateObjectAsync(
        new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = Size }, Cancellation);

    private Task<Lease> LendAsync(ObjectDocument made)
    {
        DeviceObject o = _served.Host.Objects.Find(made.Id)!;
        ConnectionEnd peer = new ConnectionEndDocument
        {
            Gid = "127.0.77.2",
            UdpPort = 4791,
            QpNumber = 17,
            Psn = 0,
            PathMtuBytes = 1024,
        }.ToEnd();
        return _served.Host.Leases.LendAsync(o, new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, peer));
    }

    private AcquireTicket HoldReservation(SharedBuffer buffer)
    {
        using (_served.Host.Context.Enter())
        {
            AcquireTicket ticket = new(_served.Host.Context, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            return ticket;
        }
    }

    private void ReleaseReservation(SharedBuffer buffer, AcquireTicket ticket)
    {
        using (_served.Host.Context.Enter())
        {
            buffer.Reservation.Unlock(ticket);
        }
    }
}
