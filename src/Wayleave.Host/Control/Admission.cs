using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// Counts the requests under way that change something, streams among them, and refuses new work while the host drains:
/// what was begun is finished, nothing is begun. Threads share it.
/// </summary>
internal sealed class Admission
{
    private readonly Lock _lock = new();
    private TaskCompletionSource? _idle; // set while the host drains
    private int _running;

    /// <summary>Whether new work is refused.</summary>
    public bool IsDraining
    {
        get
        {
            lock (_lock)
            {
                return _idle is not null;
            }
        }
    }

    /// <summary>Requests that change something and have not ended.</summary>
    public int Running
    {
        get
        {
            lock (_lock)
            {
                return _running;
            }
        }
    }

    /// <summary>Refuses new work from now on.</summary>
    /// <returns>Completes when everything that was begun has ended.</returns>
    public Task Drain()
    {
        lock (_lock)
        {
            _idle ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            if (_running == 0)
            {
                _idle.TrySetResult();
            }

            return _idle.Task;
        }
    }

    /// <summary>A middleware behind the routing: it asks the endpoint what it is.</summary>
    public async Task AdmitAsync(HttpContext context, RequestDelegate next)
    {
        if (HttpMethods.IsGet(context.Request.Method))
        {
            await next(context).ConfigureAwait(false);
            return;
        }

        Begin(context);
        try
        {
            await next(context).ConfigureAwait(false);
        }
        finally
        {
            End();
        }
    }

    private void Begin(HttpContext context)
    {
        bool isNew = context.GetEndpoint()?.Metadata.GetMetadata<StartsWork>() is not null;
        lock (_lock)
        {
            if (isNew && _idle is not null)
            {
                throw new WayleaveException(
                    Errno.ESHUTDOWN,
                    $"{context.Request.Method} {context.Request.Path}",
                    "the host is stopping and finishes what was begun",
                    "try another host, or this one when it is back");
            }

            _running++;
        }
    }

    private void End()
    {
        lock (_lock)
        {
            if (--_running == 0)
            {
                _idle?.TrySetResult();
            }
        }
    }
}

/// <summary>Marks an endpoint at which something begins that a host which drains would have to wait for.</summary>
internal sealed class StartsWork
{
    private static readonly StartsWork s_mark = new();

    public static void Mark(IEndpointConventionBuilder endpoint) =>
        endpoint.Add(builder => builder.Metadata.Add(s_mark));
}
