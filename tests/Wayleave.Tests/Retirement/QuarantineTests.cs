using Wayleave.Core;
using Wayleave.Core.Buffers;
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
        Assert.Null(quarantine.Hold(
            RevokeOperation.Start(f.Buffer, new RevokePolicy()), "lent", 0x1000, () => releases++));
        Assert.Equal((1, 0UL), (releases, quarantine.Bytes));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_waits_for_the_late_drain_and_a_quarantine_that_releases_at_the_time_out_is_caught(bool waits)
    {
        using BufferFixture f = new(
            StorageKind.Movable, waits ? CoreDefences.None : CoreDefences.QuarantineWaitsForProof);
        Quarantine quarantine = new(f.Host);
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        int releases = 0;
        bool handedOutInUse = false;
        QuarantineEntry entry = quarantine.Hold(revoke, "lent", 0x1000, () =>
        {
            releases++;
            handedOutInUse |= importer.Inside > 0;
        })!;
        Assert.Equal((QuarantineState.Proving, 0UL), (entry.State, quarantine.OverdueBytes));
        f.Clock.Advance(TimeSpan.FromHours(1));
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal(RevokeState.Quarantined, revoke.State);
        Assert.Equal(waits ? (0, 0x1000UL) : (1, 0UL), (releases, quarantine.OverdueBytes));
        importer.Leave();
        Assert.Equal((1, 0UL, !waits), (releases, quarantine.Bytes, handedOutInUse));
        Assert.Equal(QuarantineState.Released, entry.State);
        Assert.Empty(quarantine.Entries);
        Assert.Equal(
            ["quarantine.hold", "quarantine.release"],
            f.Trace.Events.Select(e => e.Name).Where(n => n.StartsWith("quarantine", StringComparison.Ordinal)));
    }

    [Fact]
    public void An_overdue_entry_names_its_cause_and_who_has_to_give_evidence()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host);
        f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic, "peer 10.0.0.7"));
        f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic, "peer 10.0.0.7"));
        f.AttachAndMap(f.NewImporter());
        QuarantineEntry entry = HoldOverdue(f, f.Buffer, quarantine);
        Assert.Equal((QuarantineState.Overdue, QuarantineCause.StillMapped), (entry.State, entry.Cause));
        Assert.Equal(["peer 10.0.0.7"], entry.Holders);
        Assert.Equal((0x1000UL, 0UL), (quarantine.BytesHeldBy("peer 10.0.0.7"), quarantine.BytesHeldBy("nic0")));
        Assert.Equal("lent, 4096 bytes, Overdue: StillMapped", $"{entry}");
    }

    [Fact]
    public void Who_keeps_more_than_it_may_is_lent_no_more_until_it_gives_evidence_and_others_are()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host, new QuarantineLimits { BytesPerHolderMax = 0x1000 });
        Attachment attachment = f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic, "peer"));
        Assert.Equal(Errno.Success, quarantine.TryAdmit("peer"));
        HoldOverdue(f, f.Buffer, quarantine);
        Assert.Equal(Errno.EDQUOT, quarantine.TryAdmit("peer"));
        Assert.Equal(Errno.Success, quarantine.TryAdmit("somebody else"));
        attachment.EndOfDeadUser(StopCause.ProcessDead, "pidfd");
        Assert.Equal(Errno.Success, quarantine.TryAdmit("peer"));
    }

    [Theory]
    [InlineData(0x1000UL, int.MaxValue)]
    [InlineData(ulong.MaxValue, 1)]
    public void A_full_quarantine_lends_nothing_to_anybody(ulong bytesMax, int entriesMax)
    {
        using BufferFixture f = new();
        Quarantine quarantine =
            new(f.Host, new QuarantineLimits { BytesMax = bytesMax, EntriesMax = entriesMax });
        f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic, "peer"));
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        quarantine.Hold(revoke, "lent", 0x1000, () => { });
        Assert.Equal(Errno.Success, quarantine.TryAdmit("somebody else")); // the owner still waits
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal(Errno.ENOBUFS, quarantine.TryAdmit("somebody else"));
    }

    [Fact]
    public void Memory_that_two_revokes_wait_for_is_released_by_the_last()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host);
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokePolicy content = new() { RequiredGrade = RetirementGrade.KeyDead, Timeout = TimeSpan.Zero };
        RevokeOperation weak = RevokeOperation.Start(f.Buffer, content);
        int releases = 0;
        QuarantineEntry entry = quarantine.Hold(weak, "lent", 0x1000, () => releases++)!;
        RevokeOperation strong = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        quarantine.HoldAlso(entry, strong);
        weak.HandleTimeout(f.Host.Now);
        Assert.Equal((RevokeState.Retired, 0), (weak.State, releases));
        importer.Leave();
        Assert.Equal((RevokeState.Retired, 1), (strong.State, releases));
        Assert.Throws<InvalidOperationException>(() => quarantine.HoldAlso(entry, strong));
    }

    [Fact]
    public void A_proof_of_an_earlier_life_of_the_buffer_gives_nothing_back()
    {
        using BufferFixture f = new();
        Quarantine quarantine = new(f.Host);
        RevokeOperation old = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        Assert.Equal((RevokeState.Retired, Errno.Success), (old.State, f.Unrevoke()));
        f.AttachAndMap(f.NewImporter());
        Assert.Throws<InvalidOperationException>(
            () => quarantine.Hold(old, "lent", 0x1000, () => Assert.Fail("somebody uses it")));
    }

    private static QuarantineEntry HoldOverdue(BufferFixture f, SharedBuffer buffer, Quarantine quarantine)
    {
        RevokeOperation revoke = RevokeOperation.Start(buffer, new RevokePolicy());
        QuarantineEntry entry = quarantine.Hold(revoke, "lent", 0x1000, () => { })!;
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        return entry;
    }
}
