using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// The thread that hears from the kernel: of descriptors of which no copy is left, and of processes that have ended.
/// While a mapping's end is not proven it asks again, ten times a second.
/// </summary>
internal sealed class BrokerWatch : IDisposable
{
    private static readonly TimeSpan s_askAgain = TimeSpan.FromMilliseconds(100);

    private readonly BrokerStore _store;
    private readonly EventFd _wake = new();
    private readonly Thread _thread;
    private volatile bool _stopping;

    public BrokerWatch(BrokerStore store)
    {
        _store = store;
        store.WatchChanged = _wake.Signal;
        _thread = new Thread(Run) { IsBackground = true, Name = "wayleave broker watch" };
        _thread.Start();
    }

    public void Dispose()
    {
        _stopping = true;
        _wake.Signal();
        _thread.Join();
        _store.WatchChanged = null;
        _wake.Dispose();
    }

    private void Run()
    {
        List<object> ready = [];
        bool isPending = false;
        while (!_stopping)
        {
            _wake.Take();
            DescriptorSet<object> set = Collect();
            set.Wait(isPending ? s_askAgain : TimeSpan.FromSeconds(1), ready);
            foreach (object meaning in ready)
            {
                if (meaning is BrokerDescriptor descriptor)
                {
                    _store.HandleHangup(descriptor);
                }
                else if (meaning is BrokerProgram program)
                {
                    _store.HandleDeath(program);
                }
            }

            isPending = _store.SettleAll();
        }
    }

    private DescriptorSet<object> Collect()
    {
        DescriptorSet<object> set = new();
        set.Add(_wake.Descriptor, input: true, _wake);
        using (_store.Context.Enter())
        {
            (BrokerProgram[] programs, BrokerDescriptor[] descriptors) = _store.WatchedLocked();
            foreach (BrokerProgram program in programs)
            {
                set.Add(program.Process.Descriptor, input: true, program);
            }

            foreach (BrokerDescriptor descriptor in descriptors)
            {
                set.Add(descriptor.Pair.Kept, input: false, descriptor);
            }
        }

        return set;
    }
}
