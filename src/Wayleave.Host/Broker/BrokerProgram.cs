using System.Globalization;
using Wayleave.Linux;

namespace Wayleave.Host.Broker;

/// <summary>
/// A process that has something of this host: its account. Changed under the host lock; it lives until the process is
/// dead and nothing is on its account any more.
/// </summary>
internal sealed class BrokerProgram(PidFd process, uint userId) : IDisposable
{
    public PidFd Process { get; } = process;

    public int ProcessId => Process.ProcessId;

    public uint UserId { get; } = userId;

    /// <summary>What it calls itself.</summary>
    public string Name { get; set; } = "";

    /// <summary>For accounts and proofs: <c>process 4711</c>.</summary>
    public string Holder { get; } = string.Create(CultureInfo.InvariantCulture, $"process {process.ProcessId}");

    public bool IsDead { get; set; }

    public int Connections { get; set; }

    /// <summary>Bytes that it allocated and that are not free again.</summary>
    public ulong Bytes { get; set; }

    public int Buffers { get; set; }

    public int Descriptors { get; set; }

    public int Mappings { get; set; }

    public bool IsSettled => Connections == 0 && Bytes == 0 && Buffers == 0 && Descriptors == 0 && Mappings == 0;

    public void Dispose() => Process.Dispose();
}
