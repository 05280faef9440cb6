using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Scenarios.Conformance;
using Wayleave.Tests.PeerMemory;
using Xunit;

namespace Wayleave.Tests.Recorded;

/// <summary>Our pool of peer memory beside the kernel's: the same calls of a process, the same answers.</summary>
public sealed class PoolRecordTests
{
    [Fact]
    public void P2P_03_21_Every_call_answers_as_the_kernels()
    {
        List<string> steps = [];
        using PeerFixture fixture = new();
        SoftwarePool pool = new(fixture.Add(0, 0), fixture.Fabric.Processor);
        new PoolConformance(pool, (name, what, result) => steps.Add($"{name} {what} = {result}")).Run();
        Assert.Equal(Kernel("common"), steps);
    }

    [Fact]
    public void A_pool_that_keeps_pages_is_told_from_the_kernels()
    {
        List<string> steps = [];
        using PeerFixture fixture = new();
        SoftwarePool pool = new(fixture.Add(0, 0), fixture.Fabric.Processor, keepsPages: true);
        new PoolConformance(pool, (name, what, result) => steps.Add($"{name} {what} = {result}")).Run();
        Assert.NotEqual(Kernel("common"), steps);
    }

    [Fact]
    public void P2P_25_What_the_adapter_lent_of_the_kernels_pool_went_back_when_it_was_proven()
    {
        string[] lent = [.. Kernel("adapter").Where(s => s.StartsWith("P2P-25", StringComparison.Ordinal))];
        Assert.Contains("P2P-25 pages that are missing = 16", lent);
        Assert.Contains("P2P-25 the device may go on after the take-back = no", lent);
        Assert.Contains("P2P-25 grade of the take-back = Retired", lent);
        Assert.Contains("P2P-25 pages that are missing after it = 0", lent);
    }

    /// <summary>Each step beside the kernel's.</summary>
    internal static IEnumerable<HeldRow> Rows()
    {
        Dictionary<string, string> kernel = KernelRecord.Read("p2pdma")
            .Where(r => r.Text("record") == "pool" && r.Text("part") == "common")
            .ToDictionary(r => $"{r.Text("case")} {r.Text("do")}", r => r.Text("result"));
        List<HeldRow> rows = [];
        using PeerFixture fixture = new();
        new PoolConformance(new SoftwarePool(fixture.Add(0, 0), fixture.Fabric.Processor), (name, what, result) =>
        {
            string its = kernel[$"{name} {what}"];
            rows.Add(new HeldRow(name, what, result, its, "p2p") { IsSame = its == result });
        }).Run();
        return rows;
    }

    private static IEnumerable<string> Kernel(string part) => KernelRecord.Read("p2pdma")
        .Where(r => r.Text("record") == "pool" && r.Text("part") == part)
        .Select(r => $"{r.Text("case")} {r.Text("do")} = {r.Text("result")}");

    /// <summary>A pool of ours; the host lock is held all the time.</summary>
    private sealed class SoftwarePool(PeerPool pool, PciFunction processor, bool keepsPages = false) : IPoolBackend
    {
        public ulong SizeBytes => pool.SizeBytes;

        public ulong AvailableBytes => pool.AvailableBytes;

        public IDisposable? TryMap(ulong lengthBytes, bool isShared, ulong offset, out string result)
        {
            Errno errno =
                pool.TryMmap("process 1", processor, lengthBytes, isShared, offset, out PeerUserMapping? mapping);
            result = errno == Errno.Success ? "ok" : errno.ToString();
            return mapping is null ? null : new Mapping(keepsPages ? null : mapping);
        }

        private sealed class Mapping(PeerUserMapping? mapping) : IDisposable
        {
            public void Dispose() => mapping?.End();
        }
    }
}
