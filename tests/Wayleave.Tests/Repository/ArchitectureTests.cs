using System.Reflection;
using System.Xml.Linq;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Repository;

/// <summary>
/// What must be absent. The banned-symbol list sees the calls of Core and Devices; this sees signatures, references
/// between projects and what a project file switches on.
/// </summary>
public class ArchitectureTests
{
    private const BindingFlags All = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance
        | BindingFlags.Static | BindingFlags.DeclaredOnly;

    // The table of docs/architecture.md: a line more here is a design decision and has a record in docs/adr.
    private static readonly Dictionary<string, string[]> s_references = new()
    {
        ["Wayleave.Core"] = [],
        ["Wayleave.Devices"] = ["Wayleave.Core"],
        ["Wayleave.Linux"] = ["Wayleave.Core"],
        ["Wayleave.Simulation"] = ["Wayleave.Core"],
        ["Wayleave.Client"] = ["Wayleave.Core", "Wayleave.Linux"],
        ["Wayleave.Ports"] = ["Wayleave.Core", "Wayleave.Devices", "Wayleave.Linux"],
        ["Wayleave.Ibverbs"] =
            ["Wayleave.Client", "Wayleave.Core", "Wayleave.Devices", "Wayleave.Linux", "Wayleave.Ports"],
        ["Wayleave.Host"] =
            ["Wayleave.Client", "Wayleave.Core", "Wayleave.Devices", "Wayleave.Linux", "Wayleave.Ports"],
        ["Wayleave.Scenarios"] = ["Wayleave.Core", "Wayleave.Devices", "Wayleave.Simulation"],
        ["Wayleave.Cli"] = ["Wayleave.Host", "Wayleave.Linux", "Wayleave.Scenarios", "Wayleave.Simulation"],
    };

    private static readonly string[] s_forbiddenInSignatures =
    [
        "System.Threading.Tasks.", "System.Threading.Thread", "System.Threading.Monitor", "System.IO.",
        "System.Net.Sockets.", "System.Diagnostics.Process", "Microsoft.Extensions.",
    ];

    // System.Net.Primitives holds addresses as values; sockets are elsewhere.
    private static readonly string[] s_allowedAssemblies =
    [
        "System.Collections", "System.Linq", "System.Memory", "System.Net.Primitives", "System.Runtime",
        "System.Runtime.InteropServices", "System.Runtime.Intrinsics", "System.Threading", "Wayleave.Core",
    ];

    public static TheoryData<Type> SansIo => [typeof(InFlightGate), typeof(Bth)];

    public static TheoryData<string> ProductProjects => [.. s_references.Keys];

    [Theory]
    [MemberData(nameof(SansIo))]
    public void A_sans_io_assembly_neither_waits_nor_owns_a_thread_nor_does_io(Type anyTypeOfAssembly)
    {
        IEnumerable<string> found =
            from type in anyTypeOfAssembly.Assembly.GetTypes()
            from member in type.GetMembers(All)
            from used in TypesOf(member)
            where s_forbiddenInSignatures.Any(f => used.FullName?.StartsWith(f, StringComparison.Ordinal) == true)
            select $"{type.FullName}.{member.Name} uses {used.FullName}";
        Assert.Empty(found);
    }

    [Theory]
    [MemberData(nameof(SansIo))]
    public void A_sans_io_assembly_references_nothing_that_does_io(Type anyTypeOfAssembly) =>
        Assert.Empty(
            anyTypeOfAssembly.Assembly.GetReferencedAssemblies().Select(a => a.Name!).Except(s_allowedAssemblies));

    [Fact]
    public void Every_project_below_src_is_in_the_table() =>
        Assert.Equal(s_references.Keys.Order(), Projects("src/").Select(Path.GetFileNameWithoutExtension).Order());

    [Theory]
    [MemberData(nameof(ProductProjects))]
    public void A_project_references_only_what_stands_below_it(string project) =>
        Assert.Empty(References(ProjectFile(project)).Except(s_references[project]));

    [Fact]
    public void The_tests_that_run_anywhere_reference_nothing_of_Linux() =>
        Assert.Empty(References(ProjectFile("Wayleave.Tests"))
            .Except(["Wayleave.Core", "Wayleave.Devices", "Wayleave.Simulation", "Wayleave.Scenarios"]));

    [Theory]
    [InlineData("Wayleave.Core")]
    [InlineData("Wayleave.Devices")]
    [InlineData("Wayleave.Simulation")]
    public void A_library_that_runs_anywhere_takes_no_package_along(string project) =>
        Assert.Empty(Load(ProjectFile(project)).Descendants("PackageReference")
            .Where(p => p.Attribute("PrivateAssets")?.Value != "all").Select(p => p.Attribute("Include")!.Value));

    [Fact]
    public void Only_what_talks_to_a_kernel_or_to_C_may_say_unsafe() =>
        Assert.Equal(
            ["Wayleave.Ibverbs", "Wayleave.Lab", "Wayleave.Linux", "Wayleave.Linux.Tests"],
            Projects("").Where(p => SourceTree.Read(p).Contains("<AllowUnsafeBlocks>true", StringComparison.Ordinal))
                .Select(Path.GetFileNameWithoutExtension).Order());

    [Fact]
    public void Only_the_interop_folder_declares_imports()
    {
        IEnumerable<string> found =
            from file in SourceTree.WithExtension(".cs")
            where file.StartsWith("src/", StringComparison.Ordinal)
            where !file.StartsWith("src/Wayleave.Linux/Interop/", StringComparison.Ordinal)
            let text = SourceTree.Read(file)
            where text.Contains("[LibraryImport(", StringComparison.Ordinal)
                || text.Contains("[DllImport(", StringComparison.Ordinal)
            select file;
        Assert.Empty(found);
    }

    [Fact]
    public void Internals_are_visible_to_tests_and_to_what_ships_for_testing_only() =>
        Assert.Empty(
            from project in Projects("src/")
            from friend in Load(project).Descendants("InternalsVisibleTo").Select(i => i.Attribute("Include")!.Value)
            where friend is not (
                "Wayleave.Tests" or "Wayleave.Linux.Tests" or "Wayleave.Simulation" or "Wayleave.Scenarios")
            select $"{project} shows its internals to {friend}");

    [Fact]
    public void The_solution_holds_every_project()
    {
        IEnumerable<string> listed = XDocument.Parse(SourceTree.Read("Wayleave.slnx")).Descendants("Project")
            .Select(p => p.Attribute("Path")!.Value);
        Assert.Equal(Projects(""), listed.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void A_library_package_needs_no_reflection_over_names() =>
        Assert.All(
            Projects("src/").Where(p => SourceTree.Read(p).Contains("<IsPackable>true", StringComparison.Ordinal)),
            p => Assert.Contains("<IsAotCompatible>true", SourceTree.Read(p), StringComparison.Ordinal));

    [Fact]
    public void The_simulation_knows_no_device() =>
        Assert.DoesNotContain(
            "Wayleave.Devices", typeof(Explorer).Assembly.GetReferencedAssemblies().Select(a => a.Name));

    private static IEnumerable<string> Projects(string under) =>
        SourceTree.WithExtension(".csproj").Where(f => f.StartsWith(under, StringComparison.Ordinal));

    private static string ProjectFile(string project) =>
        Projects("").Single(f => Path.GetFileNameWithoutExtension(f) == project);

    private static XDocument Load(string project) => XDocument.Parse(SourceTree.Read(project));

    private static IEnumerable<string> References(string project) => Load(project).Descendants("ProjectReference")
        .Select(r => Path.GetFileNameWithoutExtension(r.Attribute("Include")!.Value));

    private static IEnumerable<Type> TypesOf(MemberInfo member) => member switch
    {
        MethodInfo m => m.GetParameters().Select(p => p.ParameterType).Append(m.ReturnType).SelectMany(Parts),
        ConstructorInfo c => c.GetParameters().SelectMany(p => Parts(p.ParameterType)),
        FieldInfo f => Parts(f.FieldType),
        _ => [],
    };

    // Task<Fence>[] is a Task as well.
    private static IEnumerable<Type> Parts(Type type) =>
        type.HasElementType ? Parts(type.GetElementType()!)
        : type.IsGenericType ? type.GetGenericArguments().SelectMany(Parts).Append(type.GetGenericTypeDefinition())
        : [type];
}
