using System.Globalization;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// A process that has something of this host: its account. Changed under the host lock; it lives until the process is
/// dead and nothing is on its account any more.
/// </summary>
internal sealed class BrokerProgram : IDisposable
{
    public BrokerProgram(PidFd process, uint userId, BrokerLimits limits)
    {
        (Process, UserId) = (process, userId);
        Holder = string.Create(CultureInfo.InvariantCulture, $"process {process.ProcessId}");
        Ledger = new BrokerLedger(limits, Holder);
    }

    public PidFd Process { get; }

    public int ProcessId => Process.ProcessId;

    public uint UserId { get; }

    /// <summary>What it calls itself.</summary>
    public string Name { get; set; } = "";

    /// <summary>For accounts and proofs: <c>process 4711</c>.</summary>
    public string Holder { get; }

    public bool IsDead { get; set; }

    public BrokerLedger Ledger { get; }

    /// <summary>What ends each of its connections; a child may have copies of the other ends.</summary>
    public Dictionary<MessageSocket, Action> Connections { get; } = [];

    /// <summary>Cancelled when it is dead: nobody waits for an answer.</summary>
    public CancellationTokenSource Died { get; } = new();

    public void Dispose() => Process.Dispose();
}
