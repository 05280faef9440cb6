using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Xunit;

namespace Wayleave.Tests.Buffers;

/// <summary>
/// What vfio_pci_dmabuf.c does with the revoke of Core: an exporter of storage that stays and may vanish.
/// </summary>
public class RevocableExporterTests
{
    [Fact]
    public void EXP_08_Only_importers_that_can_be_made_to_stop_are_let_in()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryAttach(BufferFixture.Device, importer: null, out _));
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryAttach(BufferFixture.Device, new TestPinnedImporter(), out _));
        f.Attach(f.NewImporter(ImporterKind.PinnedRevocable));
        f.Attach(f.NewImporter());
    }

    [Fact]
    public void EXP_09_Memory_that_is_switched_off_is_left_by_all_first_and_when_it_is_on_again_dynamic_importers_map()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        TestImporter dynamic = f.NewImporter(), pinned = f.NewImporter(ImporterKind.PinnedRevocable);
        Attachment first = f.AttachAndMap(dynamic), second = f.AttachAndMap(pinned);
        (dynamic.Inside, pinned.Inside) = (1, 1);
        RevokeOperation off = RevokeOperation.Start(f.Buffer, new RevokePolicy { Reason = "memory decoding is off" });
        Assert.Equal((1, 1, Errno.ENODEV), (dynamic.Invalidations, pinned.Invalidations, f.Map(first).Errno));
        dynamic.Leave();
        Assert.False(off.IsCompleted);
        pinned.Leave();
        Assert.Equal(RevokeState.Retired, off.State);
        Assert.Equal(Errno.Success, f.Unrevoke());
        Assert.Equal((MapOutcomeKind.Mapped, Errno.ENODEV), (f.Map(first).Kind, f.Map(second).Errno));
    }

    [Fact]
    public void EXP_10_A_reset_waits_for_the_fence_of_an_importer()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        Fence work = f.AddFence(ReservationUsage.Bookkeep);
        RevokeOperation reset = RevokeOperation.Start(f.Buffer, new RevokePolicy { Reason = "function-level reset" });
        f.Clock.Advance(TimeSpan.FromMilliseconds(50));
        Assert.False(reset.IsCompleted);
        work.Signal();
        Assert.Equal(TimeSpan.FromMilliseconds(50), reset.Proof!.FencesSignaledAt);
    }

    [Fact]
    public void EXP_13_After_the_device_is_gone_nobody_maps_and_an_open_handle_still_closes()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        Attachment attachment = f.Attach(f.NewImporter());
        HandleTable table = new(f.Host);
        f.Buffer.Get();
        table.TryInstall(f.Buffer, out int handle);
        RevokeOperation.Start(f.Buffer, new RevokePolicy { Reason = "the device is closed" });
        f.Buffer.Release();
        f.Exporter.AttachResult = Errno.ENODEV;
        Assert.Equal(Errno.ENODEV, f.Buffer.TryAttach(BufferFixture.Device, f.NewImporter(), out _));
        Assert.Equal(Errno.ENODEV, f.Map(attachment).Errno);
        f.Buffer.Detach(attachment);
        Assert.Equal(Errno.Success, table.Close(handle));
        Assert.Contains("release", f.Exporter.Calls);
    }
}
