using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Devices.Rdma;
using Wayleave.Linux;

namespace Wayleave.Ports.Programs;

// A page of a file: what the process wrote last is there when it is gone, also after SIGKILL. Numbers in the byte order
// of the machine; nobody reads the file on another one.
//
//   0     magic                     8   process
//   64    counters, in the order of ReportCounter
//   1024  name of the program       1280 name of the device      1536 its address, each UTF-8 and closed by a zero

/// <summary>
/// The counters of one device of one process, kept where they outlive it: written under the token of the device's port,
/// read by whoever started the process.
/// </summary>
public sealed class ReportPage : IDisposable
{
    private const long Magic = 0x3130_5052_4C57; // WLRP01
    private const int Bytes = 4096;
    private const int CountersAt = 64;
    private const int ProgramAt = 1024;
    private const int DeviceAt = 1280;
    private const int AddressAt = 1536;
    private const int NameBytes = 256;
    private const string Suffix = ".report";

    private readonly MappedMemory _page;

    private ReportPage(MappedMemory page) => _page = page;

    /// <summary>Starts a page.</summary>
    /// <param name="folder">There already.</param>
    /// <param name="device">Its name.</param>
    /// <param name="address">Where it is.</param>
    /// <exception cref="IOException">The file cannot be made or mapped.</exception>
    /// <exception cref="UnauthorizedAccessException">Nor may it be.</exception>
    public static ReportPage Create(string folder, string device, string address)
    {
        string name = string.Create(CultureInfo.InvariantCulture, $"{Environment.ProcessId}-{device}{Suffix}");
        using FileStream file = new(Path.Combine(folder, name), FileMode.Create, FileAccess.ReadWrite);
        file.SetLength(Bytes);
        using FileDescriptor descriptor = new((int)file.SafeFileHandle.DangerousGetHandle(), ownsHandle: false);
        ReportPage made = new(MappedMemory.MapShared(descriptor, 0, Bytes, name));
        Span<byte> page = made._page.GetSpan();
        MemoryMarshal.Cast<byte, long>(page)[1] = Environment.ProcessId;
        WriteText(page, ProgramAt, Path.GetFileName(Environment.ProcessPath ?? ""));
        WriteText(page, DeviceAt, device);
        WriteText(page, AddressAt, address);
        MemoryMarshal.Cast<byte, long>(page)[0] = Magic;
        return made;
    }

    /// <summary>What is in a folder, by process and device. Files that are no pages are passed over.</summary>
    public static IReadOnlyList<ProgramReport> ReadAll(string folder)
    {
        List<ProgramReport> found = [];
        foreach (string file in Directory.EnumerateFiles(folder, "*" + Suffix))
        {
            byte[] page = File.ReadAllBytes(file);
            if (page.Length != Bytes || MemoryMarshal.Cast<byte, long>(page)[0] != Magic)
            {
                continue;
            }

            Dictionary<ReportCounter, long> counters = [];
            foreach (ReportCounter counter in Enum.GetValues<ReportCounter>())
            {
                counters.Add(counter, MemoryMarshal.Cast<byte, long>(page.AsSpan(CountersAt))[(int)counter]);
            }

            found.Add(new ProgramReport(
                (int)MemoryMarshal.Cast<byte, long>(page)[1],
                ReadText(page, ProgramAt),
                ReadText(page, DeviceAt),
                ReadText(page, AddressAt),
                counters));
        }

        return [.. found.OrderBy(r => r.ProcessId).ThenBy(r => r.Device, StringComparer.Ordinal)];
    }

    /// <summary>Writes what the port has counted. Its token held; a few stores.</summary>
    /// <param name="stats">Of the port.</param>
    /// <param name="stagedBytes">By its DMA engine.</param>
    /// <param name="revokes">Of its device.</param>
    public void Write(in RdmaStats stats, long stagedBytes, long revokes)
    {
        Span<long> to = MemoryMarshal.Cast<byte, long>(_page.GetSpan()[CountersAt..]);
        to[(int)ReportCounter.PacketsSent] = stats.PacketsSent;
        to[(int)ReportCounter.PacketsReceived] = stats.PacketsReceived;
        to[(int)ReportCounter.BytesSent] = stats.BytesSent;
        to[(int)ReportCounter.BytesReceived] = stats.BytesReceived;
        to[(int)ReportCounter.BytesPlaced] = stats.BytesPlaced;
        to[(int)ReportCounter.BytesRejected] = stats.BytesRejected;
        to[(int)ReportCounter.BytesStaged] = stagedBytes;
        to[(int)ReportCounter.Retransmits] = stats.Retransmits;
        to[(int)ReportCounter.Timeouts] = stats.Timeouts;
        to[(int)ReportCounter.NaksSent] = stats.NaksPsnSequenceSent + stats.NaksInvalidRequestSent
            + stats.NaksRemoteAccessSent + stats.NaksRemoteOperationSent;
        to[(int)ReportCounter.NaksReceived] = stats.NaksReceived;
        to[(int)ReportCounter.RnrNaksSent] = stats.RnrNaksSent;
        to[(int)ReportCounter.RnrNaksReceived] = stats.RnrNaksReceived;
        to[(int)ReportCounter.PacketsDropped] = stats.PacketsDropped;
        to[(int)ReportCounter.Duplicates] = stats.Duplicates;
        to[(int)ReportCounter.Faults] = stats.Faults;
        to[(int)ReportCounter.Revokes] = revokes;
    }

    /// <summary>Unmaps the page; the file stays.</summary>
    public void Dispose() => ((IDisposable)_page).Dispose();

    private static void WriteText(Span<byte> page, int at, string text) =>
        Encoding.UTF8.TryGetBytes(text, page.Slice(at, NameBytes - 1), out _);

    private static string ReadText(ReadOnlySpan<byte> page, int at)
    {
        ReadOnlySpan<byte> text = page.Slice(at, NameBytes);
        return Encoding.UTF8.GetString(text[..Math.Max(text.IndexOf((byte)0), 0)]);
    }
}

/// <summary>What one device of one process did, as its page says.</summary>
/// <param name="ProcessId">As the process knew itself.</param>
/// <param name="Program">The name of its file.</param>
/// <param name="Device">The name of the device.</param>
/// <param name="Address">Where it was.</param>
/// <param name="Counters">All of them.</param>
public sealed record ProgramReport(
    int ProcessId,
    string Program,
    string Device,
    string Address,
    IReadOnlyDictionary<ReportCounter, long> Counters);
