using System.Runtime.InteropServices;

namespace Wayleave.Linux.Facilities;

/// <summary>
/// Looks what a machine offers to this process. It changes nothing: device nodes are not opened, no module is loaded,
/// and what it has to make to see whether it can be made (a memfd, sockets on the loopback, one page as a dma-buf) is
/// gone when it returns.
/// </summary>
public sealed class FacilitySurvey
{
    private readonly MachineFiles _files;

    /// <param name="root">
    /// The folder that holds <c>sys</c>, <c>proc</c> and <c>dev</c>; another than <c>/</c> leaves out what only a
    /// system call can tell.
    /// </param>
    public FacilitySurvey(string root = "/") : this(new MachineFiles(root))
    {
    }

    internal FacilitySurvey(MachineFiles files) => _files = files;

    /// <summary>Every facility, areas together, always in the same order.</summary>
    public IReadOnlyList<Facility> Look() =>
    [
        new("kernel", "linux", FacilityState.Present, Kernel()),
        .. new MemoryFacilities(_files).Look(),
        .. new BufferFacilities(_files).Look(),
        .. new PeerFacilities(_files).Look(),
        .. new NetworkFacilities(_files).Look(),
    ];

    private string Kernel()
    {
        string release = _files.Read("proc/sys/kernel/osrelease") ?? "unknown release";
        return $"{release} on {RuntimeInformation.OSArchitecture.ToString().ToLowerInvariant()}";
    }
}
