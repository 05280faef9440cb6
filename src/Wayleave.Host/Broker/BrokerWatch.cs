using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// The thread that hears from the kernel: of descriptors of which no copy is left, and of processes that have ended.
/// While a mapping's end is not proven it asks again, ten times a second. Programs that do not stop when told are given
/// up about when their time is over.
/// </summary>
internal sealed class BrokerWatch : IDisposable
{
    private const ulong WakeKey = 0; // no socket has this cookie

    private static readonly TimeSpan s_askAgain = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_idle = TimeSpan.FromSeconds(1);

    private readonly BrokerStore _store;
    private readonly DescriptorWatch _watch = new();
    private readonly EventFd _wake = new();
    private readonly Thread _thread;
    private volatile bool _stopping;

    public BrokerWatch(BrokerStore store)
    {
        _store = store;
        _watch.Add(WakeKey, _wake.Descriptor, input: true);
        store.Programs.Watch = _watch.Add;
        _thread = new Thread(Run) { IsBackground = true, Name = "wayleave broker watch" };
        _thread.Start();
    }

    public void Dispose()
    {
        _stopping = true;
        _wake.Signal();
        _thread.Join();
        _store.Programs.Watch = null;
        _watch.Dispose();
        _wake.Dispose();
    }

    private void Run()
    {
        List<ulong> ready = [];
        TimeSpan wait = s_idle;
        while (!_stopping)
        {
            _watch.Wait(wait, ready);
            foreach (ulong key in ready)
            {
                if (key != WakeKey)
                {
                    _store.HandleEvent(key);
                }
            }

            wait = _store.SettleAll() ? s_askAgain : s_idle;
            if (_store.Importers.HandleTimeout() is { } due && due < wait)
            {
                wait = due;
            }
        }
    }
}
