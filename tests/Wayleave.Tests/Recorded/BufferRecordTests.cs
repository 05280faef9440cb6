using System.Text.Json;
using Wayleave.Scenarios.Conformance;
using Xunit;

namespace Wayleave.Tests.Recorded;

/// <summary>Our buffers, fences and sync files beside a kernel's: the same calls, the same answers.</summary>
public sealed class BufferRecordTests
{
    public static TheoryData<string> Exporters => ["udmabuf", "dma-heap", "vgem"];

    [Theory]
    [MemberData(nameof(Exporters))]
    public void Every_call_answers_as_the_kernels(string exporter) =>
        Assert.Equal(Kernel(exporter), Ask(SoftwareParts.CreateBackend()));

    [Theory]
    [InlineData("adapter")]
    [InlineData("core")]
    public void Through_the_adapters_every_case_answers_as_by_system_calls(string part)
    {
        int cases = 0;
        foreach (JsonElement record in KernelRecord.Read("dmabuf").Where(
            r => r.Text("part") == part && r.Text("do") == "all steps of the case"))
        {
            string[] words = record.Text("result").Split(' ');
            Assert.True(words[0] == words[2], $"{record.Text("exporter")} {record.Text("case")}: {words[0]} steps");
            cases++;
        }

        int asked = Ask(SoftwareParts.CreateBackend()).DistinctBy(s => s.Split(' ')[0]).Count();
        Assert.Equal(Exporters.Count * asked, cases);
    }

    [Fact]
    public void A_backend_that_forgets_readers_is_told_from_the_kernel() =>
        Assert.NotEqual(Kernel("udmabuf"), Ask(SoftwareParts.CreateBackend(forgetsReaders: true)));

    [Fact]
    public void No_two_steps_have_the_same_text()
    {
        IReadOnlyList<string> steps = [.. Ask(SoftwareParts.CreateBackend()).Select(s => s[..s.LastIndexOf(" = ")])];
        Assert.Equal(steps.Distinct(), steps);
    }

    /// <summary>Each step beside the kernel's three exporters.</summary>
    internal static IEnumerable<HeldRow> Rows()
    {
        ILookup<string, string> kernel = KernelRecord.Read("dmabuf").Where(r => r.Text("part") == "common")
            .ToLookup(r => $"{r.Text("case")} {r.Text("do")}", r => r.Text("result"));
        List<HeldRow> rows = [];
        new BufferConformance(SoftwareParts.CreateBackend(), (name, what, result) =>
        {
            string[] its = [.. kernel[$"{name} {what}"]];
            string verdict = its.Distinct().Count() == 1 ? its[0] : string.Join(", ", its);
            rows.Add(new HeldRow(name, what, result, verdict, "dmabuf") { IsSame = its.All(i => i == result) });
        }).Run();
        return rows;
    }

    private static List<string> Ask(IBufferBackend backend)
    {
        List<string> steps = [];
        new BufferConformance(backend, (name, what, result) => steps.Add($"{name} {what} = {result}")).Run();
        return steps;
    }

    private static IEnumerable<string> Kernel(string exporter) => KernelRecord.Read("dmabuf")
        .Where(r => r.Text("exporter") == exporter && r.Text("part") == "common")
        .Select(r => $"{r.Text("case")} {r.Text("do")} = {r.Text("result")}");
}
