using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.WebUtilities;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// Failures as answers: RFC 9457 problem documents, with the error number's name so that a client can throw the same.
/// </summary>
internal static class Problem
{
    public const string ContentType = "application/problem+json";

    /// <summary>The status that a plain HTTP client should see for a failure.</summary>
    public static int ToStatus(Errno errno) => errno switch
    {
        Errno.EINVAL or Errno.ERANGE or Errno.EOVERFLOW or Errno.ENAMETOOLONG => StatusCodes.Status400BadRequest,
        Errno.EPERM or Errno.EACCES => StatusCodes.Status403Forbidden,
        Errno.ENOENT => StatusCodes.Status404NotFound,
        Errno.EBUSY or Errno.EEXIST or Errno.EBADFD or Errno.EALREADY or Errno.EDEADLK or Errno.ECANCELED
            => StatusCodes.Status409Conflict,
        Errno.ENODEV => StatusCodes.Status410Gone,
        Errno.E2BIG or Errno.EFBIG or Errno.EMSGSIZE => StatusCodes.Status413PayloadTooLarge,
        Errno.EOPNOTSUPP => StatusCodes.Status501NotImplemented,
        Errno.ESHUTDOWN => StatusCodes.Status503ServiceUnavailable,
        Errno.ETIMEDOUT or Errno.ETIME => StatusCodes.Status504GatewayTimeout,
        Errno.ENOSPC or Errno.ENOMEM => StatusCodes.Status507InsufficientStorage,
        Errno.EAGAIN or Errno.EMFILE => StatusCodes.Status503ServiceUnavailable,
        _ => StatusCodes.Status500InternalServerError,
    };

    public static Task WriteAsync(HttpContext context, WayleaveException e) => WriteAsync(context, new ProblemDocument
    {
        Title = ErrnoMap.Describe(e.Errno),
        Status = ToStatus(e.Errno),
        Detail = e.Message,
        Errno = e.Errno.ToString(),
        Operation = e.Operation,
        Reason = e.Reason,
        Remedy = e.Remedy,
    });

    /// <summary>For what HTTP itself refuses: the answer says no more than its status.</summary>
    public static Task WriteAsync(HttpContext context, int status, string detail) => WriteAsync(
        context,
        new ProblemDocument { Title = ReasonPhrases.GetReasonPhrase(status), Status = status, Detail = detail });

    private static Task WriteAsync(HttpContext context, ProblemDocument problem)
    {
        context.Response.StatusCode = problem.Status;
        JsonTypeInfo<ProblemDocument> type = ControlJson.Default.ProblemDocument;
        return context.Response.WriteAsJsonAsync(problem, type, ContentType, context.RequestAborted);
    }
}
