using System.Reflection;
using System.Text;
using Wayleave.Core.Buffers;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests;

/// <summary>The public surface of each package, as text under review: a change of it is a change of the snapshot.</summary>
public class PublicApiTests
{
    [Theory]
    [InlineData(typeof(InFlightGate))]
    [InlineData(typeof(Explorer))]
    public void Is_the_reviewed_one(Type anyTypeOfAssembly)
    {
        ArgumentNullException.ThrowIfNull(anyTypeOfAssembly);
        Assembly assembly = anyTypeOfAssembly.Assembly;
        StringBuilder text = new();
        foreach (Type type in assembly.GetExportedTypes().OrderBy(t => t.FullName, StringComparer.Ordinal))
        {
            text.AppendLine($"{Kind(type)} {type.FullName}");
            const BindingFlags Declared = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
            foreach (string member in type.GetMembers(Declared).Where(IsVisible).Select(m => m.ToString()!).Order(StringComparer.Ordinal))
            {
                text.AppendLine("    " + member);
            }
        }

        Snapshot.Match(text.ToString(), assembly.GetName().Name!);
    }

    private static string Kind(Type t) => t switch
    {
        { IsEnum: true } => "enum",
        { IsInterface: true } => "interface",
        { IsValueType: true } => "struct",
        { IsAbstract: true, IsSealed: true } => "static class",
        _ => "class",
    };

    private static bool IsVisible(MemberInfo m) => m switch
    {
        MethodBase b => b.IsPublic || b.IsFamily || b.IsFamilyOrAssembly,
        FieldInfo f => f.IsPublic || f.IsFamily || f.IsFamilyOrAssembly,
        Type t => t.IsNestedPublic || t.IsNestedFamily,
        PropertyInfo or EventInfo => false, // their accessors are listed
        _ => true,
    };
}
