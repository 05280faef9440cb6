using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// The processes that have something of a host. Members with Locked in their name are called with the host lock held.
/// </summary>
internal sealed class BrokerPrograms(HostContext context, BrokerLimits limits)
{
    private const ulong ProcessKey = 1UL << 63; // a cookie is a count, and far from that

    private readonly List<BrokerProgram> _programs = []; // host lock

    /// <summary>Told what is to be watched: its key, and whether input counts. Host lock held; never waits.</summary>
    public Action<ulong, FileDescriptor, bool>? Watch { get; set; }

    public IReadOnlyList<BrokerProgram> AllLocked => _programs;

    /// <summary>Programs that have something, or are connected.</summary>
    public int Count
    {
        get
        {
            using (context.Enter())
            {
                return _programs.Count;
            }
        }
    }

    /// <summary>
    /// Off, who connects is taken for whoever had the number of its process: for the test that must notice.
    /// </summary>
    internal bool AsksProcess { get; set; } = true;

    /// <summary>The program behind a connection, on whose account everything is.</summary>
    /// <param name="socket">Of the connection.</param>
    /// <param name="died">Called when the process is dead, without the host lock.</param>
    /// <param name="peer">As the kernel says.</param>
    /// <exception cref="WayleaveException">EDQUOT: it has too many connections. ESRCH: it is gone.</exception>
    public BrokerProgram Enter(MessageSocket socket, Action died, UnixPeer peer)
    {
        // Whoever connected, and not who has its number by now; alive, it is the only one that has it.
        PidFd process = OpenPeer(socket);
        using (context.Enter())
        {
            BrokerProgram? known = _programs.Find(p => p.ProcessId == peer.ProcessId
                && (!AsksProcess || (!p.IsDead && !p.Process.WaitForExit(TimeSpan.Zero))));
            if (process.WaitForExit(TimeSpan.Zero))
            {
                process.Dispose();
                throw new WayleaveException(Errno.ESRCH, "connect", $"process {peer.ProcessId} has ended");
            }

            if (known is not null)
            {
                process.Dispose();
            }
            else
            {
                known = new BrokerProgram(process, peer.UserId, limits);
                _programs.Add(known);
                Watch?.Invoke(KeyOf(known), known.Process.Descriptor, true);
            }

            known.Ledger.Take(BrokerAccount.Connections, "connect");
            known.Connections.Add(socket, died);
            return known;
        }
    }

    public void Leave(BrokerProgram program, MessageSocket socket)
    {
        using (context.Enter())
        {
            program.Connections.Remove(socket);
            program.Ledger.Give(BrokerAccount.Connections);
            ForgetLocked(program);
        }
    }

    /// <summary>Ends the account of a program that is dead and has nothing any more.</summary>
    public void ForgetLocked(BrokerProgram program)
    {
        if (program.IsDead && program.Ledger.IsEmpty && _programs.Remove(program))
        {
            program.Dispose();
        }
    }

    /// <summary>Whether a key of the watch is a process's; a descriptor's is the cookie of its socket.</summary>
    public static bool IsProcess(ulong key) => (key & ProcessKey) != 0;

    /// <summary>Those whose key it is and who have ended: the number may be another process's by now.</summary>
    public BrokerProgram[] FindDead(ulong key)
    {
        using (context.Enter())
        {
            return [.. _programs.Where(p => KeyOf(p) == key && !p.IsDead && p.Process.WaitForExit(TimeSpan.Zero))];
        }
    }

    private static ulong KeyOf(BrokerProgram program) => ProcessKey | (uint)program.ProcessId;

    private static PidFd OpenPeer(MessageSocket socket)
    {
        try
        {
            return socket.OpenPeer();
        }
        catch (LinuxException e)
        {
            throw ErrnoMap.ToException(e, "connect");
        }
    }
}
