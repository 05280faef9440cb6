using System.Runtime.CompilerServices;
using System.Text.Json;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>
/// The captures of a kernel rxe in <c>tests/vectors</c>, or in the folder that WAYLEAVE_VECTORS names: NAME.pcap holds
/// the packets, NAME.json what an independent decoder says about each.
/// </summary>
internal static class CaptureFiles
{
    /// <summary>The captures that tests know by name.</summary>
    public static string RepositoryFolder { get; } = Path.GetFullPath(Path.Combine(ThisFolder(), "../../../vectors"));

    /// <summary>The captures of this run.</summary>
    public static string Folder { get; } =
        Environment.GetEnvironmentVariable("WAYLEAVE_VECTORS") is { Length: > 0 } folder ? folder : RepositoryFolder;

    /// <summary>Names without extension, in order.</summary>
    public static IEnumerable<string> Names =>
        Directory.EnumerateFiles(Folder, "*.pcap")
            .Select(file => Path.GetFileNameWithoutExtension(file))
            .Order(StringComparer.Ordinal);

    /// <summary>Those of <see cref="Names"/> that have a description.</summary>
    public static IEnumerable<string> DescribedNames =>
        Names.Where(n => File.Exists(Path.Combine(Folder, n + ".json")));

    /// <summary>The bytes of a capture.</summary>
    public static byte[] Capture(string name) => File.ReadAllBytes(Path.Combine(Folder, name + ".pcap"));

    /// <summary>Every record of a capture, which must be whole.</summary>
    public static List<PcapRecord> ReadAll(string name)
    {
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(Capture(name), out PcapReader? reader));
        List<PcapRecord> records = [];
        PcapStatus status;
        while ((status = reader!.TryRead(out PcapRecord record)) == PcapStatus.Success)
        {
            records.Add(record);
        }

        Assert.Equal(PcapStatus.End, status);
        return records;
    }

    public static JsonDocument Description(string name) =>
        JsonDocument.Parse(File.ReadAllText(Path.Combine(Folder, name + ".json")));

    private static string ThisFolder([CallerFilePath] string source = "") => Path.GetDirectoryName(source)!;
}
