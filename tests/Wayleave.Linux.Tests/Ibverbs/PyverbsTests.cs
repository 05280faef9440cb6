using System.IO.Compression;
using System.Text.RegularExpressions;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// rdma-core's own suite, as Debian's python3-pyverbs brings it: each module in a process of its own over our library.
/// A test passes, or skips for a capability that the device does not state; none fails, errs or ends the process.
/// Modules of other vendors' extensions (mlx5, efa) skip as a whole and are not run.
/// </summary>
public sealed partial class PyverbsTests : IDisposable
{
    private const string Python = "/usr/bin/python3"; // the one that the package is for
    private const string Suite = "/usr/share/doc/rdma-core/tests";

    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"wayleave-{Guid.NewGuid():n}");

    // What passes at least: a capability that goes away unnoticed would make tests skip.
    private static readonly Dictionary<string, int> s_passes = new()
    {
        ["test_addr"] = 3,
        ["test_atomic"] = 7,
        ["test_cq"] = 4,
        ["test_cq_events"] = 2,
        ["test_cqex"] = 4,
        ["test_cuda_dmabuf"] = 0,
        ["test_device"] = 13,
        ["test_flow"] = 0,
        ["test_fork"] = 1,
        ["test_mr"] = 12,
        ["test_odp"] = 12,
        ["test_parent_domain"] = 0,
        ["test_pd"] = 4,
        ["test_qp"] = 21,
        ["test_qpex"] = 18,
        ["test_rdmacm"] = 0,
        ["test_relaxed_ordering"] = 2,
        ["test_rss_traffic"] = 0,
        ["test_shared_pd"] = 0,
        ["test_tag_matching"] = 0,
    };

    public static TheoryData<string> Modules => [.. s_passes.Keys];

    [Theory]
    [MemberData(nameof(Modules))]
    public void A_module_of_pyverbs_passes_or_skips(string module)
    {
        CopySuite();
        VerbsRun result = VerbsPrograms.Run(
            VerbsPrograms.Wayleave(), "run", "--devices", $"wl0@{Loopback.NextAddress()}", "--",
            Python, "-X", "faulthandler", Path.Combine(_folder, "run_tests.py"), "-v", $"tests.{module}");
        Assert.True(result.Exit == 0, result.ToString());
        int ran = int.Parse(Ran().Match(result.Errors).Groups[1].ValueSpan, null);
        Match skipped = Skipped().Match(result.Errors);
        int passed = ran - (skipped.Success ? int.Parse(skipped.Groups[1].ValueSpan, null) : 0);
        Assert.True(passed >= s_passes[module], $"{passed} passed\n{result.Errors}");
    }

    [Fact]
    public void Every_module_of_the_suite_is_known_here()
    {
        CopySuite();
        IEnumerable<string> modules = Directory.EnumerateFiles(_folder, "test_*.py")
            .Select(f => Path.GetFileNameWithoutExtension(f))
            .Where(m => !m.Contains("mlx5", StringComparison.Ordinal) && !m.Contains("efa", StringComparison.Ordinal));
        Assert.Empty(modules.Except(s_passes.Keys));
    }

    public void Dispose()
    {
        if (Directory.Exists(_folder))
        {
            Directory.Delete(_folder, recursive: true);
        }
    }

    // Debian compresses the larger files of a package's documentation.
    private void CopySuite()
    {
        DropInTests.Library();
        Assert.SkipUnless(Directory.Exists(Suite), "no python3-pyverbs");
        Directory.CreateDirectory(_folder);
        foreach (string file in Directory.EnumerateFiles(Suite, "*.py*"))
        {
            string copy = Path.Combine(_folder, Path.GetFileName(file).Replace(".gz", "", StringComparison.Ordinal));
            using FileStream source = File.OpenRead(file);
            using FileStream target = File.Create(copy);
            if (file.EndsWith(".gz", StringComparison.Ordinal))
            {
                using GZipStream unpacked = new(source, CompressionMode.Decompress);
                unpacked.CopyTo(target);
            }
            else
            {
                source.CopyTo(target);
            }
        }
    }

    [GeneratedRegex(@"^Ran (\d+) test", RegexOptions.Multiline)]
    private static partial Regex Ran();

    [GeneratedRegex(@"skipped=(\d+)")]
    private static partial Regex Skipped();
}
