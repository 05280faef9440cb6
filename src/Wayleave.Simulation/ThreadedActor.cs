namespace Wayleave.Simulation;

/// <summary>Runs ordinary threaded code one piece at a time: the thread stops at every point and goes on when chosen.</summary>
public sealed class ThreadedActor
{
    [ThreadStatic]
    private static ThreadedActor? s_current;

    private readonly object _turn = new();
    private bool _running;
    private bool _finished;
    private string _point = "start";
    private Exception? _failure;

    public ThreadedActor(Action body)
    {
        new Thread(() =>
        {
            s_current = this;
            try
            {
                AwaitTurn();
                body();
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                _failure = e;
            }

            _finished = true;
            EndTurn();
        })
        { IsBackground = true }.Start();
    }

    /// <summary>Called by the code under test; does nothing on threads that no actor owns.</summary>
    public static void Stop(string point)
    {
        if (s_current is { } self)
        {
            self._point = point;
            self.EndTurn();
            self.AwaitTurn();
        }
    }

    public IEnumerable<Step> Steps()
    {
        while (!_finished)
        {
            yield return _point;
            lock (_turn)
            {
                _running = true;
                Monitor.PulseAll(_turn);
                while (_running)
                {
                    Monitor.Wait(_turn);
                }
            }

            if (_failure is not null)
            {
                throw new InvalidOperationException(_failure.Message, _failure);
            }
        }
    }

    private void AwaitTurn()
    {
        lock (_turn)
        {
            while (!_running)
            {
                Monitor.Wait(_turn);
            }
        }
    }

    private void EndTurn()
    {
        lock (_turn)
        {
            _running = false;
            Monitor.PulseAll(_turn);
        }
    }
}
