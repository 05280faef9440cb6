using System.Reflection;
using Wayleave.Core.Buffers;
using Xunit;

namespace Wayleave.Tests;

/// <summary>What must be absent from the core. The banned-symbol list sees calls; this sees signatures and references.</summary>
public class ArchitectureTests
{
    private static readonly Assembly s_core = typeof(InFlightGate).Assembly;

    [Fact]
    public void The_core_is_synchronous()
    {
        const BindingFlags All = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
        Assert.Empty(
            from type in s_core.GetTypes()
            from method in type.GetMethods(All)
            where method.ReturnType.FullName?.StartsWith("System.Threading.Tasks.", StringComparison.Ordinal) == true
            select $"{type.Name}.{method.Name}");
    }

    [Fact]
    public void The_core_references_no_input_or_output()
    {
        string[] allowed = ["System.Runtime", "System.Collections", "System.Threading", "System.Memory", "System.Linq", "System.Runtime.InteropServices", "System.Runtime.Intrinsics"];
        Assert.Empty(s_core.GetReferencedAssemblies().Select(a => a.Name!).Except(allowed));
    }
}
