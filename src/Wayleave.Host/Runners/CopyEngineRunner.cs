using Wayleave.Core;
using Wayleave.Devices.Gpu;

namespace Wayleave.Host.Runners;

/// <summary>
/// The thread of a copy engine: it sleeps until a job may be ready and then drives the engine. It takes the engine
/// token, never holds the host lock while it copies, and ends when disposed, after the block in hand.
/// </summary>
public sealed class CopyEngineRunner : IDisposable
{
    // Blocks between two looks at the stop flag.
    private const int StepsPerTurn = 64;

    private readonly CopyEngine _engine;
    private readonly HostContext _host;
    private readonly AutoResetEvent _work = new(initialState: false);
    private readonly Thread _thread;
    private volatile bool _stopping;
    private volatile Exception? _failure;

    public CopyEngineRunner(CopyEngine engine, HostContext host, string name)
    {
        ArgumentNullException.ThrowIfNull(engine);
        _engine = engine;
        _host = host;
        engine.WorkAvailable = () => _work.Set();
        _thread = new Thread(Run) { IsBackground = true, Name = name };
        _thread.Start();
    }

    /// <summary>What stopped the thread, or null.</summary>
    public Exception? Failure => _failure;

    public void Dispose()
    {
        if (!_stopping)
        {
            _stopping = true;
            _work.Set();
            _thread.Join();
            _engine.WorkAvailable = null;
            _work.Dispose();
        }
    }

    private void Run()
    {
        try
        {
            while (!_stopping)
            {
                if (_engine.Drive(StepsPerTurn) == 0)
                {
                    _work.WaitOne();
                }
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Nobody drives the engine from now on, and a thread that has ended touches no memory: its jobs end with an
            // error. The status says why.
            _failure = e;
            _host.Trace("copy.engine_failed", e.Message);
            using (_host.Enter())
            {
                _engine.HandleDriverEnded();
            }
        }
    }
}
