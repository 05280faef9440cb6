using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Host.Broker;

/// <summary>
/// A timeline that a program drives by hand (<c>sw_sync</c>). Its end, by a close or by the program's death, ends what
/// is pending with ENOENT. Nothing of the host waits for such a fence; programs may. Of the connection's thread.
/// </summary>
internal sealed class BrokerTimeline : IBrokerUse
{
    private const int PendingMax = 1024;

    private readonly BrokerSession _session;
    private readonly SoftwareTimeline _timeline; // host lock

    private BrokerTimeline(BrokerSession session, SoftwareTimeline timeline) =>
        (_session, _timeline) = (session, timeline);

    public string Name => _timeline.Name;

    /// <exception cref="WayleaveException">EDQUOT.</exception>
    public static BrokerTimeline Open(BrokerSession session, string name)
    {
        HostContext context = session.Host.Context;
        using (context.Enter())
        {
            session.Program.Ledger.Take(BrokerAccount.Queues, $"open timeline {name}");
            string whole = name.Length == 0 ? session.Program.Holder : $"{session.Program.Holder} {name}";
            return new BrokerTimeline(session, new SoftwareTimeline(context, whole));
        }
    }

    /// <exception cref="WayleaveException">EDQUOT: too many of its fences are pending.</exception>
    public SyncFile MakeFence(uint value)
    {
        using (_session.Host.Context.Enter())
        {
            if (_timeline.PendingCount >= PendingMax)
            {
                throw new WayleaveException(
                    Errno.EDQUOT, $"make a fence of {Name}", $"{PendingMax} of its fences are pending");
            }

            return new SyncFile(_session.Host.Context, _timeline.CreateFence(value));
        }
    }

    public void Advance(uint count)
    {
        using (_session.Host.Context.Enter())
        {
            _timeline.Increment(count);
        }
    }

    public void End()
    {
        using (_session.Host.Context.Enter())
        {
            _timeline.Close();
            _session.Program.Ledger.Give(BrokerAccount.Queues);
        }
    }
}
