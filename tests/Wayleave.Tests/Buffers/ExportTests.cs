using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class ExportTests
{
    [Fact]
    public void DBUF_01_An_export_without_an_exporter_is_EINVAL_and_a_violation()
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EINVAL, SharedBuffer.TryExport(f.Host, new ExportInfo(null!, "none", 1), out _));
        f.ExpectViolation(ViolationKind.Export);
    }

    [Fact]
    public void DBUF_02_differs_Pin_and_unpin_are_one_interface_and_storage_that_moves_must_have_it()
    {
        using BufferFixture f = new();
        ExportInfo info = new(new BareExporter(StorageKind.Movable), "moves", 1);
        Assert.Equal(Errno.EINVAL, SharedBuffer.TryExport(f.Host, info, out _));
        f.ExpectViolation(ViolationKind.Export);
    }

    [Fact]
    public void A_buffer_larger_than_a_file_can_be_is_EINVAL()
    {
        using BufferFixture f = new();
        ExportInfo info = new(f.Exporter, "huge", long.MaxValue);
        Assert.Equal(Errno.Success, SharedBuffer.TryExport(f.Host, info, out _));
        Assert.Equal(Errno.EINVAL, SharedBuffer.TryExport(f.Host, info with { SizeBytes = 1UL << 63 }, out _));
    }

    [Fact]
    public void DBUF_32_A_name_has_at_most_31_bytes_and_changes_at_any_time()
    {
        using BufferFixture f = new();
        f.AttachAndMap(f.NewImporter());
        string longest = new('n', 31);
        Assert.Equal(Errno.Success, f.Buffer.SetName(longest));
        Assert.Equal(longest, BufferInfo.Of(f.Buffer).Name);
        Assert.Equal(Errno.EINVAL, f.Buffer.SetName(new string('n', 32)));
        Assert.Equal(Errno.EINVAL, f.Buffer.SetName(new string('\u00e4', 16))); // 32 bytes of UTF-8
        Assert.Equal(Errno.EINVAL, f.Buffer.SetName("two\0names"));
        Assert.Equal(longest, f.Buffer.Name);
    }

    [Fact]
    public void The_list_of_buffers_names_users_and_pending_fences_and_cannot_be_forged_by_a_name()
    {
        using BufferFixture f = new();
        f.AttachAndMap(f.NewImporter(ImporterKind.PinnedRevocable));
        f.AddFence(Core.Reservations.ReservationUsage.Write);
        f.AddFence(Core.Reservations.ReservationUsage.Bookkeep);
        f.Buffer.SetName("a\ntotal 9 buffers");
        Assert.Equal(
            """
                size         count  exporter              id        storage    name
                4096         2      exporter              1         Movable    a?total 9 buffers
                    fence: WRITE work 1:1 pending
                    fence: BOOKKEEP work 1:2 pending
                    nic0: importer, PinnedRevocable, Mapped, 1 pins
            total 1 buffers, 4096 bytes

            """,
            BufferInfo.Format(BufferInfo.Collect(f.Host)));
    }

    [Fact]
    public void A_released_buffer_leaves_the_list()
    {
        using BufferFixture f = new();
        SharedBuffer second = f.Export(new ExportInfo(new BareExporter(), "second", 1));
        Assert.Equal(["lent", "second"], BufferInfo.Collect(f.Host).Select(b => b.Name));
        f.Buffer.Release();
        Assert.Equal(second.Id, Assert.Single(BufferInfo.Collect(f.Host)).Id);
    }
}
