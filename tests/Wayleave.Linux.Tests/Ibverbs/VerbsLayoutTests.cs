using Wayleave.Ibverbs.Interop;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Asks the C compiler whether the structures that C programs hand us are those of their header.</summary>
public class VerbsLayoutTests
{
    private const string Header = "infiniband/verbs.h";

    public static TheoryData<string> Structures => [.. Types().Select(t => t.Name)];

    [Theory]
    [MemberData(nameof(Structures))]
    public void A_structure_is_laid_out_as_in_the_installed_header(string name)
    {
        Assert.SkipUnless(File.Exists($"/usr/include/{Header}"), $"no <{Header}> is installed (libibverbs-dev)");
        LayoutTests.Compile(Describe(name));
    }

    [Fact]
    public void A_member_in_the_wrong_place_is_noticed()
    {
        Assert.SkipUnless(File.Exists($"/usr/include/{Header}"), $"no <{Header}> is installed (libibverbs-dev)");
        string program = Describe(nameof(ibv_send_wr)).Replace(
            "wr.atomic.rkey) == 64", "wr.atomic.rkey) == 48", StringComparison.Ordinal);
        Assert.Contains(
            "wr.atomic.rkey",
            Assert.Throws<InvalidOperationException>(() => LayoutTests.Compile(program)).Message,
            StringComparison.Ordinal);
    }

    private static IEnumerable<Type> Types() => typeof(ibv_send_wr).Assembly.GetTypes()
        .Where(t => t.Namespace == typeof(ibv_send_wr).Namespace && t is { IsNested: false, IsValueType: true })
        .OrderBy(t => t.Name, StringComparer.Ordinal);

    // The one union of the header has a type of its own here as well.
    private static string Describe(string name) => LayoutTests
        .Describe(Header, [Types().Single(t => t.Name == name)])
        .Replace("struct ibv_gid)", "union ibv_gid)", StringComparison.Ordinal)
        .Replace("struct ibv_gid,", "union ibv_gid,", StringComparison.Ordinal);
}
