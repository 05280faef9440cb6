using Wayleave.Core.Retirement;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Retirement;

public class QuarantineTests
{
    [Fact]
    public void Memory_of_a_retired_revoke_is_released_at_once_and_never_counted()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host);
        int releases = 0;
        quarantine.Hold(RevokeOperation.Start(f.Buffer, new RevokePolicy()), "lent", 0x1000, () => releases++);
        Assert.Equal((1, 0UL), (releases, quarantine.Bytes));
    }

    [Fact]
    public void Memory_waits_for_the_late_drain_and_not_for_the_time_out()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host);
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        int releases = 0;
        quarantine.Hold(revoke, "lent", 0x1000, () => releases++);
        f.Clock.Advance(TimeSpan.FromHours(1));
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal((0, 0x1000UL, RevokeState.Quarantined), (releases, quarantine.Bytes, revoke.State));
        Assert.Same(revoke, Assert.Single(quarantine.Entries).Operation);
        importer.Leave();
        Assert.Equal((1, 0UL), (releases, quarantine.Bytes));
        Assert.Empty(quarantine.Entries);
        Assert.Equal(
            ["quarantine.hold", "quarantine.release"],
            f.Trace.Events.Select(e => e.Name).Where(n => n.StartsWith("quarantine", StringComparison.Ordinal)));
    }
}
