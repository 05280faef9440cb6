using System.Collections.Concurrent;
using Wayleave.Core;
using Wayleave.Devices.Nvme;

namespace Wayleave.Host.Runners;

/// <summary>
/// The threads of a drive. One drives the controller and its driver: it takes the controller's token, then the host
/// lock, never both. The others move blocks between the drive's buffers and the medium, hold no lock, and may sleep in
/// the kernel.
/// </summary>
public sealed class NvmeRunner : IDisposable
{
    private const int StepsPerTurn = 64;

    // What a disk may need to give up on a block, and more than a file system on one needs to answer.
    private static readonly TimeSpan s_mediumMax = TimeSpan.FromSeconds(5);

    private readonly NvmeController _controller;
    private readonly NvmeDriver _driver;
    private readonly HostContext _host;
    private readonly Func<NvmeMediaRequest, Errno> _medium;
    private readonly AutoResetEvent _work = new(initialState: false);
    private readonly BlockingCollection<NvmeMediaRequest> _requests = [];
    private readonly List<Thread> _threads = [];
    private volatile bool _stopping;
    private readonly TaskCompletionSource _failed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile Exception? _failure;

    /// <param name="controller">Nobody else drives it.</param>
    /// <param name="driver">Started by the caller.</param>
    /// <param name="host">Not held by the caller.</param>
    /// <param name="medium">Does one request to its end, on one of <paramref name="workers"/> threads.</param>
    /// <param name="workers">Requests that are at the medium at once.</param>
    /// <param name="name">For the names of the threads.</param>
    public NvmeRunner(
        NvmeController controller,
        NvmeDriver driver,
        HostContext host,
        Func<NvmeMediaRequest, Errno> medium,
        int workers,
        string name)
    {
        ArgumentNullException.ThrowIfNull(controller);
        (_controller, _driver, _host, _medium) = (controller, driver, host, medium);
        controller.WorkAvailable = () => _work.Set();
        _threads.Add(new Thread(Run) { IsBackground = true, Name = name });
        for (int i = 0; i < workers; i++)
        {
            _threads.Add(new Thread(Serve) { IsBackground = true, Name = $"{name} medium {i}" });
        }

        foreach (Thread thread in _threads)
        {
            thread.Start();
        }
    }

    /// <summary>What stopped the drive's thread, or null.</summary>
    public Exception? Failure => _failure;

    /// <summary>Ends, with success, once <see cref="Failure"/> is there.</summary>
    public Task WhenFailed => _failed.Task;

    /// <summary>
    /// Requests that a medium has not answered when the runner was disposed; each keeps its buffer of the drive, which
    /// therefore stays mapped.
    /// </summary>
    public int Unanswered { get; private set; }

    /// <summary>
    /// Ends the threads after the requests in hand. The driver was reset before, or nobody waits for it. A medium that
    /// does not answer is waited for no longer than a few seconds: <see cref="Unanswered"/>.
    /// </summary>
    public void Dispose()
    {
        if (_stopping)
        {
            return;
        }

        _stopping = true;
        _work.Set();
        _threads[0].Join();
        _requests.CompleteAdding();
        long end = Environment.TickCount64 + (long)s_mediumMax.TotalMilliseconds;
        foreach (Thread thread in _threads.Skip(1))
        {
            long left = Math.Max(0, end - Environment.TickCount64);
            Unanswered += thread.Join((int)left) ? 0 : 1;
        }

        _controller.WorkAvailable = null;
        if (Unanswered > 0)
        {
            _host.Trace("nvme.medium_unanswered", _threads[0].Name ?? "", Unanswered);
            return; // what such a thread still uses is the collector's, once it comes back
        }

        _requests.Dispose();
        _work.Dispose();
    }

    private void Run()
    {
        try
        {
            while (!_stopping)
            {
                bool any = _controller.Drive(StepsPerTurn, _requests.Add) > 0;
                using (_host.Enter())
                {
                    any |= _driver.Poll();
                }

                if (!any)
                {
                    _work.WaitOne();
                }
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Transfers stay under way and their fences pending: memory they use is never given out. The status says
            // why.
            _failure = e;
            _failed.SetResult();
            _host.Trace("nvme.runner_failed", e.Message);
        }
    }

    private void Serve()
    {
        foreach (NvmeMediaRequest request in _requests.GetConsumingEnumerable())
        {
            Errno errno;
            try
            {
                errno = _medium(request);
            }
            catch (Exception e) when (e is IOException or ObjectDisposedException)
            {
                _host.Trace("nvme.medium_failed", e.Message);
                errno = Errno.EIO;
            }

            request.Complete(errno);
        }
    }
}
