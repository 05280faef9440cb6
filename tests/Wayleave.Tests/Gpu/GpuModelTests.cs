using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>
/// A GPU under pressure, by seed: buffers come, move, are used and go; every byte is where it belongs, and every page
/// is accounted for.
/// </summary>
public class GpuModelTests
{
    private const ulong Page = GpuFixture.Page;

    private sealed record Live(GpuBuffer Buffer, Attachment Attachment, TestImporter Importer)
    {
        public byte Value { get; set; }
    }

    [Theory]
    [InlineData(1UL)]
    [InlineData(2UL)]
    [InlineData(3UL)]
    [InlineData(4UL)]
    [InlineData(5UL)]
    public void No_byte_and_no_page_is_lost_whatever_is_done(ulong seed)
    {
        GpuFixture f = new(vramPages: 12, systemPages: 16);
        SplitMix64 random = new(seed);
        List<Live> live = [];
        List<RevokeOperation> freed = [];
        for (int step = 0; step < 3000; step++)
        {
            Live? one = live.Count == 0 ? null : live[random.Next(live.Count)];
            switch (random.Next(8))
            {
                case 0:
                    Create(f, random, live, step);
                    break;
                case 1 when one is not null:
                    f.Locked(() => f.Gpu.Move(one.Buffer, (GpuDomain)random.Next(2)));
                    break;
                case 2 when one is not null:
                    f.Locked(() => f.Gpu.TryMakeRoom((ulong)random.Next(6) * Page, out _));
                    break;
                case 3 when one is not null && random.Next(4) == 0:
                    live.Remove(one);
                    freed.Add(FreeAndLeave(f, one));
                    break;
                case 4 when one is not null:
                    Use(f, one, (byte)(random.Next(255) + 1));
                    break;
                case 5 when one is { Importer.Drain: not null }:
                    f.Locked(one.Importer.Leave);
                    break;
                default:
                    f.Gpu.CopyEngine.Drive(random.Next(6));
                    break;
            }

            CheckBooks(f.Stats);
        }

        foreach (Live one in live.Where(o => o.Importer.Drain is not null))
        {
            f.Locked(one.Importer.Leave);
        }

        f.Run();
        Assert.All(live, one => CheckBytes(f, one));
        Assert.All(freed, r => Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (r.State, r.Proof!.Grade)));
        Assert.True(f.Stats is { Evictions: > 20, Restores: > 20 }, $"too little happened: {f.Stats}");
        live.ForEach(one => FreeAndLeave(f, one));
        GpuStats end = f.Stats;
        Assert.Equal(
            (end.VramTotalBytes, end.SystemTotalBytes, 0), (end.VramFreeBytes, end.SystemFreeBytes, end.Buffers));
        Assert.Equal((12 * Page, 16 * Page), f.Locked(() =>
            (f.Gpu.Memory(GpuDomain.Vram).LargestFreeBytes, f.Gpu.Memory(GpuDomain.System).LargestFreeBytes)));
        Assert.Empty(f.Gpu.Quarantine.Entries);
    }

    private static RevokeOperation FreeAndLeave(GpuFixture f, Live one)
    {
        RevokeOperation revoke = f.Free(one.Buffer);
        if (one.Importer.Drain is not null)
        {
            f.Locked(one.Importer.Leave);
        }

        return revoke;
    }

    private static void Create(GpuFixture f, SplitMix64 random, List<Live> live, int step)
    {
        (ulong pages, GpuDomain domain) = ((ulong)random.Next(3) + 1, (GpuDomain)random.Next(2));
        if (f.TryCreate($"{step}", pages, out GpuBuffer? buffer, domain: domain) == Errno.Success)
        {
            TestImporter importer = f.NewImporter();
            live.Add(new Live(buffer!, f.Attach(buffer!, importer), importer));
        }
    }

    // Maps; if the bytes are there, checks and changes them, and sometimes stays inside for a while.
    private static void Use(GpuFixture f, Live one, byte value)
    {
        if (one.Importer.Drain is not null)
        {
            return;
        }

        if (one.Attachment.State == MappingState.Unmapped)
        {
            Assert.Equal(MapOutcomeKind.Mapped, f.Map(one.Attachment).Kind);
        }

        if (f.IsIdle(one.Buffer))
        {
            CheckBytes(f, one);
            one.Importer.Inside = value % 3 == 0 ? 1 : 0;
            Write(f, one.Attachment.Addresses!, value);
            one.Value = value;
        }
    }

    private static void CheckBytes(GpuFixture f, Live one)
    {
        DmaPort port = new(f.Function);
        foreach (DeviceRange range in one.Buffer.Placement.Addresses.Entries)
        {
            Assert.Equal(
                Errno.Success, port.TryRead(range.Start, (int)range.LengthBytes, out ReadOnlySpan<byte> bytes));
            Assert.False(bytes.ContainsAnyExcept(one.Value), $"{one.Buffer} does not hold {one.Value}");
        }
    }

    private static void Write(GpuFixture f, DmaAddressList addresses, byte value)
    {
        DmaPort port = new(f.Nic);
        foreach (DeviceRange range in addresses.Entries)
        {
            Assert.Equal(Errno.Success, port.TryWrite(range.Start, (int)range.LengthBytes, out Span<byte> bytes));
            bytes.Fill(value);
        }
    }

    private static void CheckBooks(GpuStats s)
    {
        Assert.Equal(s.VramTotalBytes, s.VramFreeBytes + s.VramUsedBytes + s.VramQuarantinedBytes);
        Assert.Equal(s.SystemTotalBytes, s.SystemFreeBytes + s.SystemUsedBytes + s.SystemQuarantinedBytes);
        Assert.Equal(s.Moves, s.Evictions + s.Restores);
    }
}
