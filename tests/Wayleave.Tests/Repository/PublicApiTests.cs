using System.Reflection;
using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Repository;

/// <summary>
/// The public surface of each package, as text under review: a change of it is a change of the snapshot.
/// </summary>
public class PublicApiTests
{
    [Theory]
    [InlineData(typeof(HostContext))]
    [InlineData(typeof(RdmaDevice))]
    [InlineData(typeof(Explorer))]
    public void The_public_surface_is_the_reviewed_one(Type anyTypeOfAssembly)
    {
        ArgumentNullException.ThrowIfNull(anyTypeOfAssembly);
        const BindingFlags Declared =
            BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static
        | BindingFlags.DeclaredOnly;
        StringBuilder text = new();
        IEnumerable<Type> types =
            anyTypeOfAssembly.Assembly.GetExportedTypes().OrderBy(t => t.FullName, StringComparer.Ordinal);
        foreach (Type type in types)
        {
            text.Append(Kind(type)).Append(' ').Append(type.FullName).Append('\n');
            IEnumerable<string> members = type.GetMembers(Declared).Where(IsVisible).Select(m => m.ToString()!);
            foreach (string member in members.Order(StringComparer.Ordinal))
            {
                text.Append("    ").Append(member).Append('\n');
            }
        }

        Snapshot.Match(text.ToString(), "api/" + anyTypeOfAssembly.Assembly.GetName().Name);
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
